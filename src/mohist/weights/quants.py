"""Stored values to float32 and back, with ggml's block layouts and rounding.

Every product and sum below is rounded to float32 on its own, in the order of ggml's reference code
(`ggml-quants.c`), so the results are ggml's bits. Work goes in slices of blocks: temporaries stay small
and in cache, whatever the tensor's size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from mohist.errors import WeightsError
from mohist.weights.formats import Format, RawTensor, TensorInfo, bytes_per_row

__all__ = ["dequantize", "quantize", "widened"]

_SLICE_VALUES = 1 << 18
"""Values worked on at a time: 1 MiB of float32."""


def dequantize(raw: RawTensor) -> torch.Tensor:
    """The values as float32, in `raw.info.shape`. F32 data is returned as it is, not copied."""
    if not raw.info.format.is_block:
        return raw.data.float()
    decode = _DECODERS[raw.info.format]
    blocks = raw.data.reshape(-1, raw.info.format.block_bytes)
    values = torch.empty(
        len(blocks), raw.info.format.block_values, dtype=torch.float32, device=raw.data.device
    )
    step = _SLICE_VALUES // raw.info.format.block_values
    for start in range(0, len(blocks), step):
        values[start : start + step] = decode(blocks[start : start + step])
    return values.view(raw.info.shape)


def quantize(tensor: torch.Tensor, format: Format, name: str = "") -> RawTensor:
    """Round a float32 matrix [N, K] to Q8_0, Q4_0 or Q4_1 blocks along K.

    Raises WeightsError when the format cannot be written, K is no whole number of blocks, or a block's
    scale is no finite float16 (a NaN, an infinity or a huge value among the weights).
    """
    if format not in _ENCODERS:
        raise WeightsError(f"cannot quantise to {format}: choose one of {', '.join(_ENCODERS)}")
    if tensor.dtype != torch.float32 or tensor.dim() != 2:
        raise WeightsError(
            f"cannot quantise tensor {name!r} of {tensor.dtype} {list(tensor.shape)}: pass a float32 matrix"
        )
    rows, columns = tensor.shape
    row_bytes = bytes_per_row(format, columns)
    encode = _ENCODERS[format]
    blocks = tensor.detach().reshape(-1, format.block_values)
    data = torch.empty(len(blocks), format.block_bytes, dtype=torch.uint8, device=tensor.device)
    step = _SLICE_VALUES // format.block_values
    for start in range(0, len(blocks), step):
        scales, quants = encode(blocks[start : start + step])
        if not scales.isfinite().all():
            raise WeightsError(
                f"cannot quantise tensor {name!r} to {format}: it holds NaN, infinite or huge values"
            )
        data[start : start + step] = torch.cat([scales.view(torch.uint8), quants], dim=1)
    info = TensorInfo(name=name, format=format, shape=(rows, columns))
    return RawTensor(info, data.view(rows, row_bytes))


def widened(raw: RawTensor) -> RawTensor:
    """A Q5_0 tensor as Q8_0, which holds every value of it: the scale stays, quants get a byte each."""
    assert raw.info.format is Format.Q5_0, raw.info
    blocks = raw.data.reshape(-1, Format.Q5_0.block_bytes)
    data = torch.empty(len(blocks), Format.Q8_0.block_bytes, dtype=torch.uint8)
    step = _SLICE_VALUES // Format.Q5_0.block_values
    for start in range(0, len(blocks), step):
        part = blocks[start : start + step]
        data[start : start + step, :2] = part[:, :2]
        data[start : start + step, 2:] = _quants_q5_0(part).view(torch.uint8)
    info = dataclasses.replace(raw.info, format=Format.Q8_0)
    return RawTensor(info, data.view(len(raw.data), -1))


# Decoders: uint8 [blocks, block_bytes] -> float32 [blocks, block_values].


def _decode_q8_0(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_halves(blocks, 0))


def _decode_q4_0(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks[:, 2:], 16).float().sub_(8).mul_(_halves(blocks, 0))


def _decode_q4_1(blocks: torch.Tensor) -> torch.Tensor:
    return _nibbles(blocks[:, 4:], 16).float().mul_(_halves(blocks, 0)).add_(_halves(blocks, 2))


def _decode_q5_0(blocks: torch.Tensor) -> torch.Tensor:
    return _quants_q5_0(blocks).float().mul_(_halves(blocks, 0))


def _decode_q5_1(blocks: torch.Tensor) -> torch.Tensor:
    quants = _nibbles(blocks[:, 8:], 16) | (_bits(blocks[:, 4:8], width=1, group=1) << 4)
    return quants.float().mul_(_halves(blocks, 0)).add_(_halves(blocks, 2))


def _quants_q5_0(blocks: torch.Tensor) -> torch.Tensor:
    quants = _nibbles(blocks[:, 6:], 16) | (_bits(blocks[:, 2:6], width=1, group=1) << 4)
    return quants.view(torch.int8).sub_(16)


def _decode_q4_k(blocks: torch.Tensor) -> torch.Tensor:
    return _affine_k(blocks, _nibbles(blocks[:, 16:], 32))


def _decode_q5_k(blocks: torch.Tensor) -> torch.Tensor:
    high = _bits(blocks[:, 16:48], width=1, group=32)
    return _affine_k(blocks, _nibbles(blocks[:, 48:], 32) | (high << 4))


def _decode_q6_k(blocks: torch.Tensor) -> torch.Tensor:
    high = _bits(blocks[:, 128:192], width=2, group=32)
    quants = (_nibbles(blocks[:, :128], 64) | (high << 4)).float().sub_(32)
    scales = blocks[:, 192:208].view(torch.int8).float().mul_(_halves(blocks, 208))
    return quants.view(-1, 16, 16).mul_(scales.unsqueeze(2)).view(-1, 256)


def _decode_mxfp4(blocks: torch.Tensor) -> torch.Tensor:
    # ggml keeps doubled values and halves the scale 2^(e - 127): its exponent field is then e - 1.
    exponents = blocks[:, :1].int()
    bits = torch.where(exponents < 2, 0x00200000 << exponents.clamp(max=2), (exponents - 1) << 23)
    return _FP4_DOUBLED[_nibbles(blocks[:, 1:], 16).int()].mul_(bits.view(torch.float32))


def _affine_k(blocks: torch.Tensor, quants: torch.Tensor) -> torch.Tensor:
    """`scale * q - minimum` for the eight sub-blocks of Q4_K and Q5_K, which share their first 16 bytes."""
    first, second, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    # Sub-blocks 0-3 keep their 6 bits in one byte; 4-7 have the low four in `mixed` and the high two on top
    # of the first four's bytes.
    scales = (
        torch.cat([first & 63, (mixed & 15) | ((first >> 2) & 48)], dim=1).float().mul_(_halves(blocks, 0))
    )
    minima = (
        torch.cat([second & 63, (mixed >> 4) | ((second >> 2) & 48)], dim=1).float().mul_(_halves(blocks, 2))
    )
    values = quants.float().view(-1, 8, 32)
    return values.mul_(scales.unsqueeze(2)).sub_(minima.unsqueeze(2)).view(-1, 256)


def _halves(blocks: torch.Tensor, offset: int) -> torch.Tensor:
    """The float16 at a byte offset of every block, as float32 [blocks, 1]."""
    return blocks[:, offset : offset + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: torch.Tensor, group: int) -> torch.Tensor:
    return _bits(packed, width=4, group=group)


def _bits(packed: torch.Tensor, *, width: int, group: int) -> torch.Tensor:
    """Unpack `width`-bit fields: from each group of bytes first all lowest fields, then all next ones."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device).view(1, 1, -1, 1)
    fields = (packed.reshape(len(packed), -1, 1, group) >> shifts) & ((1 << width) - 1)
    return fields.view(len(packed), -1)


# Encoders: float32 [blocks, 32] -> (float16 scales [blocks, 1 or 2], uint8 quants [blocks, bytes]).


def _encode_q8_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = blocks.abs().amax(dim=1, keepdim=True).div_(127)
    quants = _round_half_away(blocks * _inverse(scale)).to(torch.int8)
    return scale.half(), quants.view(torch.uint8)


def _encode_q4_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    extreme = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
    scale = extreme / -8
    return scale.half(), _pack_nibbles((blocks * _inverse(scale)).add_(8.5))


def _encode_q4_1(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = blocks.aminmax(dim=1, keepdim=True)
    scale = (high - low) / 15
    quants = _pack_nibbles((blocks - low).mul_(_inverse(scale)).add_(0.5))
    return torch.cat([scale, low], dim=1).half(), quants


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    """1 / scale; 0 where the scale is so small that its inverse is infinite, as float16 rounds it to 0."""
    inverse = scale.reciprocal()
    return inverse.masked_fill_(inverse.isinf(), 0)


def _round_half_away(values: torch.Tensor) -> torch.Tensor:
    magnitude = values.abs()
    whole = magnitude.floor()
    return (whole + (magnitude - whole >= 0.5)).copysign_(values)


def _pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Truncate to 0..15 and pack: byte i holds value i in its low half and value 16 + i in its high half."""
    quants = values.clamp_(0, 15).to(torch.uint8)
    return quants[:, :16] | (quants[:, 16:] << 4)


_FP4_DOUBLED = torch.tensor([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=torch.float32)
"""Twice what a code of e2m1 stands for, as ggml tabulates it: its negative zero is zero."""

_DECODERS: dict[Format, Callable[[torch.Tensor], torch.Tensor]] = {
    Format.Q8_0: _decode_q8_0,
    Format.Q4_0: _decode_q4_0,
    Format.Q4_1: _decode_q4_1,
    Format.Q5_0: _decode_q5_0,
    Format.Q5_1: _decode_q5_1,
    Format.Q4_K: _decode_q4_k,
    Format.Q5_K: _decode_q5_k,
    Format.Q6_K: _decode_q6_k,
    Format.MXFP4: _decode_mxfp4,
}

_ENCODERS: dict[Format, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {
    Format.Q8_0: _encode_q8_0,
    Format.Q4_0: _encode_q4_0,
    Format.Q4_1: _encode_q4_1,
}
