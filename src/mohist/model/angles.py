"""Rope angles of the rows of a forward pass, computed once for all layers that turn alike.

Shape suffixes: T packed rows, R rope pairs, S steps of a query's growth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mohist.kernels.ops import Ops
from mohist.model.rope import cos_sin_scale, inverse_frequencies, query_scales
from mohist.model.rope_config import RopeConfig

__all__ = ["AngleTable", "Angles"]


class Angles(NamedTuple):
    """cos and sin that keys and queries are turned by, as `Ops.rope_angles` has them."""

    keys_T2R: Tensor
    queries_T2R: Tensor
    """The same tensor, unless queries grow with their position."""


class AngleTable:
    """The angles of one rope at any positions up to `max_positions`."""

    def __init__(self, rope: RopeConfig, max_positions: int, ops: Ops) -> None:
        def floats(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=ops.device)

        self._ops, self._growth = ops, rope.query_growth
        self._inv_freq_R = floats(inverse_frequencies(rope))
        self._scale_1 = floats((cos_sin_scale(rope),))
        if self._growth is not None:
            self._query_scale_S = floats(query_scales(rope, self._growth, max_positions))

    def at(self, positions_T: Tensor) -> Angles:
        """For rows at these int32 positions."""
        keys_T2R = self._ops.rope_angles(positions_T, self._inv_freq_R, self._scale_1)
        if self._growth is None:
            return Angles(keys_T2R, keys_T2R)
        scale_S, period = self._query_scale_S, self._growth.period
        queries_T2R = self._ops.rope_angles(positions_T, self._inv_freq_R, scale_S, period=period)
        return Angles(keys_T2R, queries_T2R)
