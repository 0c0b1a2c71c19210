"""K-quants: ggml's super-blocks of 256 entries, as eight blocks of 32 that our kernels read one by one.

ggml spreads the bits of a block over bytes that it shares with other blocks. Here each block has its own:
first the low four bits as in q4_1 (byte i: entry i, and above it entry 16+i), then the bits above them. Of
these, byte i of four has those of entries i, 4+i, 8+i, ... from its lowest bit on: one bit each for q5_k; two
each for q6_k, whose two halves have four bytes each. The 6-bit scales of q4_k and q5_k get a byte each. What
they mean, d and dmin being float16:

    q4_k, q5_k   (d * scale) * q - dmin * minimum      a scale and a minimum for 32 entries
    q6_k         (d * scale) * (q - 32)                a signed scale for 16 entries
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

__all__ = ["STORED_BYTES", "KFormat", "Parts", "dequantized", "is_k_format", "parts"]

KFormat = Literal["q4_k", "q5_k", "q6_k"]

STORED_BYTES: dict[str, int] = {"q4_k": 144, "q5_k": 176, "q6_k": 210}
"""Bytes of a super-block as ggml stores it."""

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Parts(NamedTuple):
    """Super-blocks [N, S] taken apart: for every row what a panel has of it."""

    halves: _Bytes
    """[N, S, 2 or 4]: d, and for q4_k and q5_k dmin."""
    scales: _Bytes
    """[N, S, 16]: eight scales and eight minima, or sixteen signed scales."""
    quants: _Bytes
    """[N, S, 8, 16, 20 or 24]: the blocks."""


def is_k_format(weight_format: str) -> TypeGuard[KFormat]:
    """Whether the format has super-blocks."""
    return weight_format in STORED_BYTES


def parts(weight_format: KFormat, stored_NSB: _Bytes) -> Parts:
    """ggml's super-blocks, uint8 [N, S, STORED_BYTES], taken apart."""
    if weight_format == "q6_k":
        low, high = stored_NSB[..., :128], stored_NSB[..., 128:192]
        # nibbles of 32 bytes: blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7
        nibbles = _paired(low).reshape(*low.shape[:2], 2, 2, 2, 16).swapaxes(3, 4)
        nibbles = nibbles.reshape(*low.shape[:2], 8, 16)
        quants = np.concatenate((nibbles, _two_bits(high)), axis=-1)
        return Parts(stored_NSB[..., 208:], stored_NSB[..., 192:208], quants)
    nibbles = _paired(stored_NSB[..., -128:])
    if weight_format == "q5_k":
        nibbles = np.concatenate((nibbles, _one_bit(stored_NSB[..., 16:48])), axis=-1)
    return Parts(stored_NSB[..., :4], _six_bits(stored_NSB[..., 4:16]), nibbles)


def dequantized(weight_format: KFormat, halves: Tensor, scales: Tensor, quants: Tensor) -> Tensor:
    """The float32 values [N, S, 256] of `Parts` as tensors (`halves` as float32 numbers)."""
    nibbles = quants[..., :16]
    values = torch.cat((nibbles & 15, nibbles >> 4), dim=-1)
    above = quants[..., 16:]
    if weight_format == "q5_k":
        values |= _fields(above, width=1).flatten(-2) << 4
    if weight_format == "q6_k":
        values |= _fields(above.unflatten(-1, (2, 4)), width=2).flatten(-3) << 4
        signed = scales.view(torch.int8).float() * halves
        return ((values.float() - 32).unflatten(-1, (2, 16)) * signed.unflatten(-1, (8, 2, 1))).flatten(2)
    d, minimum = scales[..., :8].float() * halves[..., :1], scales[..., 8:].float() * halves[..., 1:]
    return (values.float() * d[..., None] - minimum[..., None]).flatten(2)


def _paired(bytes_NSB: _Bytes) -> _Bytes:
    """Two blocks of every 32 bytes, one of the low nibbles and one of the high ones: [N, S, B / 16, 16]."""
    first, second = np.moveaxis(bytes_NSB.reshape(*bytes_NSB.shape[:2], -1, 2, 16), 3, 0)
    blocks = np.stack(((first & 15) | (second << 4), (first >> 4) | (second & 0xF0)), axis=3)
    return blocks.reshape(*bytes_NSB.shape[:2], -1, 16)


def _one_bit(bytes_NS32: _Bytes) -> _Bytes:
    """Bit s of byte k is that of entry k of block s: [N, S, 8, 4]."""
    of_block = np.arange(8, dtype=np.uint8)[:, None, None]
    bits = (bytes_NS32.reshape(*bytes_NS32.shape[:2], 1, 8, 4) >> of_block) & 1
    return np.bitwise_or.reduce(bits << np.arange(8, dtype=np.uint8)[:, None], axis=-2)


def _two_bits(bytes_NS64: _Bytes) -> _Bytes:
    """Bits 2j and 2j+1 of byte k are those of entry k of block j, four blocks to 32 bytes: [N, S, 8, 8]."""
    of_block = 2 * np.arange(4, dtype=np.uint8)[:, None, None, None]
    bits = (bytes_NS64.reshape(*bytes_NS64.shape[:2], 2, 1, 2, 4, 4) >> of_block) & 3
    packed = np.bitwise_or.reduce(bits << (2 * np.arange(4, dtype=np.uint8)[:, None]), axis=-2)
    return packed.reshape(*bytes_NS64.shape[:2], 8, 8)


def _six_bits(bytes_NS12: _Bytes) -> _Bytes:
    """Eight scales and eight minima of six bits, a byte each: [N, S, 16].

    The first four of both have a byte of their own; of the others, the last four bytes have the low four
    bits, and the first eight, above what is theirs, the high two.
    """
    scales, minima, low = np.split(bytes_NS12, 3, axis=-1)
    apart = np.empty((*bytes_NS12.shape[:2], 16), np.uint8)
    apart[..., 0:4] = scales & 63
    apart[..., 4:8] = (low & 15) | ((scales >> 2) & 48)
    apart[..., 8:12] = minima & 63
    apart[..., 12:16] = (low >> 4) | ((minima >> 2) & 48)
    return apart


def _fields(bytes_4: Tensor, *, width: int) -> Tensor:
    """Unpack [..., 4] bytes into [..., 8 / width, 4], the lowest bits first."""
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=bytes_4.device)[:, None]
    return (bytes_4[..., None, :] >> shifts) & ((1 << width) - 1)
