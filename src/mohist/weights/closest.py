"""Q8_0 with scales that are searched for; `quants.quantize` takes ggml's, by which the largest value is 127.

For normal values that takes an eighth off the error. Values that were rounded to a few bits before, as those
of a Q4_1, Q4_0 or MXFP4 file, lie on a grid, and some scale has multiples close by all of its points: there
the error shrinks to a third and less. Whatever reads Q8_0 reads the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mohist.weights.formats import Format, RawTensor
from mohist.weights.quants import quantize

__all__ = ["closest_q8_0"]

_BLOCK = Format.Q8_0.block_values
_MOST, _LEAST = 127, 64
"""What the largest value of a block may become: below that, steps are twice as wide as they need to be."""
_SLICE = 2048
"""Blocks worked on at a time: 256 KiB of float32, which stay in the cache."""


def closest_q8_0(matrix: Tensor, name: str = "") -> RawTensor:
    """Round a float32 matrix [N, K] to Q8_0 blocks along K with the least squared error that was found.

    No block is further from its values than by `quantize`, which raises the same WeightsErrors. A million
    values take a tenth of a second on one core.
    """
    raw = quantize(matrix, Format.Q8_0, name)
    blocks = matrix.detach().reshape(-1, _BLOCK)
    coded = raw.data.view(-1, Format.Q8_0.block_bytes)
    for start in range(0, len(blocks), _SLICE):
        _improve(blocks[start : start + _SLICE], coded[start : start + _SLICE])
    return raw


def _improve(blocks: Tensor, coded: Tensor) -> None:
    """Replace those of the Q8_0 blocks `coded`, uint8 [blocks, 34], for which a better scale is found."""
    scales = _scales(blocks).half()
    quants = (blocks / scales.float()).round_().clamp_(-_MOST, _MOST)
    found = torch.cat([scales.view(torch.uint8), quants.to(torch.int8).view(torch.uint8)], dim=1)
    better = _errors(blocks, found) < _errors(blocks, coded)  # false for the NaN of a scale of 0
    coded[better] = found[better]


def _scales(blocks: Tensor) -> Tensor:
    """The scale [blocks, 1] by which the integers of the best of all candidates fit best.

    Integers q fit values x best with the scale (x q) / (q q), and then (x q)^2 / (q q) is what the squared
    error is less than (x x).
    """
    largest = blocks.abs().amax(dim=1, keepdim=True)
    units = blocks / largest
    best, levels = units.new_full((len(blocks),), -1.0), units.new_full((len(blocks),), _MOST)
    quants = torch.empty_like(units)
    for level in range(_MOST, _LEAST - 1, -1):
        torch.mul(units, level, out=quants).round_()
        fit = _dot(units, quants).square_().div_(_dot(quants, quants))
        levels.masked_fill_(fit > best, level)
        torch.maximum(best, fit, out=best)
    torch.mul(units, levels[:, None], out=quants).round_()
    return largest * (_dot(units, quants) / _dot(quants, quants))[:, None]


def _errors(blocks: Tensor, coded: Tensor) -> Tensor:
    scales, quants = coded[:, :2].contiguous().view(torch.float16), coded[:, 2:].view(torch.int8)
    return (quants.float() * scales.float()).sub_(blocks).square_().sum(dim=1)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a, b, dim=1)
