"""gpt-oss's experts: MXFP4, 4-bit floats in blocks of 32 with one power of two as their scale.

`NAME_blocks`, U8 [experts, rows, blocks, 16], holds two codes a byte, the even one in the low half;
`NAME_scales`, U8 [experts, rows, blocks], exponents with a bias of 127 (OCP Microscaling Formats 1.0,
sections 5.3.3 and 5.4.1; `convert_moe_packed_tensors` in transformers). Unpacked, NAME is [experts, columns,
rows], as unquantised releases store it. GGUF files hold the same numbers as rows of blocks (`pack`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mohist.errors import WeightsError
from mohist.weights.formats import Format, Packed, RawTensor, TensorInfo

__all__ = ["find", "pack", "unpack"]

_BLOCKS, _SCALES = "_blocks", "_scales"
_CODES = 16  # bytes of a block
_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""What the codes 0 to 7 stand for; 8 to 15 are their negatives."""

_SLICE_BLOCKS = 1 << 13
"""Blocks unpacked at a time, so that temporaries stay small."""


def find(folder: Path, tensors: Mapping[str, TensorInfo]) -> dict[str, Packed]:
    """The packed tensors among `tensors`. Raises WeightsError when blocks and scales do not fit."""
    found: dict[str, Packed] = {}
    for stored, blocks in tensors.items():
        if blocks.format != Format.U8 or not stored.endswith(_BLOCKS):
            continue
        name = stored.removesuffix(_BLOCKS)
        scales = tensors.get(name + _SCALES)
        expected = TensorInfo(name + _SCALES, Format.U8, blocks.shape[:3])
        if len(blocks.shape) != 4 or blocks.shape[3] != _CODES or scales != expected or name in tensors:
            there = "none" if scales is None else f"{scales.format} {list(scales.shape)}"
            raise WeightsError(
                f"{folder}: MXFP4 tensor {stored!r:.100} {list(blocks.shape)} needs the shape [experts, "
                f"rows, blocks, {_CODES}] and u8 scales {name + _SCALES!r:.100} of the first three axes, "
                f"not {there}"
            )
        experts, rows, count, _ = blocks.shape
        info = TensorInfo(name, Format.MXFP4, (experts, count * 2 * _CODES, rows))
        found[name] = Packed(info, (stored, name + _SCALES), unpack)
    return found


def unpack(blocks: RawTensor, scales: RawTensor) -> RawTensor:
    """The values as bf16, which holds each of them exactly."""
    experts, rows, count, _ = blocks.info.shape
    table = torch.tensor(_VALUES, dtype=torch.bfloat16)
    table = torch.cat([table, -table])
    codes, exponents = blocks.data.reshape(-1, _CODES), scales.data.reshape(-1, 1)
    values = torch.empty(len(codes), 2 * _CODES, dtype=torch.bfloat16)
    for start in range(0, len(codes), _SLICE_BLOCKS):
        part = slice(start, start + _SLICE_BLOCKS)
        halves = torch.stack([codes[part] & 15, codes[part] >> 4], dim=2).flatten(1)
        values[part] = torch.ldexp(table[halves.int()], exponents[part].int() - 127)
    name = blocks.info.name.removesuffix(_BLOCKS)
    return RawTensor.plain(name, values.view(experts, rows, 2 * _CODES * count).transpose(1, 2))


def pack(values: torch.Tensor, name: str = "") -> RawTensor:
    """Numbers [..., columns] that came out of such blocks, in ggml's: a scale, then two codes a byte.

    Every number is kept. Raises WeightsError, when one has no code beside the largest of its block.
    """
    rows = values.reshape(-1, values.shape[-1])
    info = TensorInfo(name, Format.MXFP4, tuple(values.shape))
    packed = torch.empty(rows.numel() // (2 * _CODES), 1 + _CODES, dtype=torch.uint8)
    blocks = rows.reshape(-1, 2 * _CODES)
    for start in range(0, len(blocks), _SLICE_BLOCKS):
        part = slice(start, start + _SLICE_BLOCKS)
        packed[part] = _coded(blocks[part].float(), name)
    return RawTensor(info, packed.view(len(rows), -1))


def _coded(blocks: torch.Tensor, name: str) -> torch.Tensor:
    """Blocks of 32 numbers, whose largest becomes 4 or 6, as a byte for the scale and 16 for the codes."""
    _, exponents = torch.frexp(blocks.abs().amax(1, keepdim=True))  # the largest is in [1/2, 1) * 2^exponent
    scales = (exponents + (127 - 3)).clamp(0, 254)
    doubled = torch.ldexp(blocks.double(), (128 - scales).double()).abs()
    codes = _CODE_OF_DOUBLED[doubled.nan_to_num(13).clamp(max=13).int()]
    if (codes < 0).any() or not torch.equal(doubled, doubled.round()):
        raise WeightsError(f"tensor {name!r:.100}: its numbers are none of MXFP4; choose another format")
    codes = codes.to(torch.uint8) | (blocks < 0).to(torch.uint8) << 3
    return torch.cat([scales.to(torch.uint8), codes[:, :_CODES] | codes[:, _CODES:] << 4], dim=1)


_CODE_OF_DOUBLED = torch.full((14,), -1, dtype=torch.int16)
"""The code of a number by its double, which is whole; -1 where there is none."""
_CODE_OF_DOUBLED[[int(2 * value) for value in _VALUES]] = torch.arange(len(_VALUES), dtype=torch.int16)
