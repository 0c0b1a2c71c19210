"""Means over the targets of a step that are the same bits however the targets were split and ordered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from mohist.train.batch import Batch
from mohist.train.ranks import Ranks

__all__ = ["Meters"]


class Meters:
    """Collects values of targets; `summary` adds each kind up exactly (`math.fsum`), so order is nothing."""

    def __init__(self) -> None:
        self._values: dict[str, list[np.ndarray]] = {}
        self._losses: list[np.ndarray] = []
        self._sums: dict[str, list[np.ndarray]] = {}
        self._mismatch: list[float] = []
        self._num_tokens = 0

    def add(self, batch: Batch, losses_J: Tensor, logprobs_J: Tensor, values: Mapping[str, Tensor]) -> None:
        """Take note of one micro-batch."""
        self._losses.append(_products(losses_J, batch.weights_J))
        for name, value_J in {"logprob": logprobs_J, **values}.items():
            self._values.setdefault(name, []).append(value_J.double().numpy(force=True))
        if batch.sampler_logprobs_J is not None:
            self._mismatch.append(float((logprobs_J - batch.sampler_logprobs_J).abs().max()))
        self._num_tokens += batch.num_tokens

    def add_sum(self, name: str, losses: Tensor, weights: Tensor) -> None:
        """Take note of terms of another loss, of which the weighted sum is reported."""
        self._sums.setdefault(name, []).append(_products(losses, weights))

    def summary(self, ranks: Ranks) -> dict[str, float]:
        """The weighted sum of losses, means of the rest, the largest mismatch, and counts, over all ranks."""
        every = ranks.gather(self)
        losses = [part for meters in every for part in meters._losses]
        count = sum(map(len, losses))
        found = {"loss": _total(losses)}
        for name in dict.fromkeys(name for meters in every for name in meters._sums):
            found[name] = _total([part for meters in every for part in meters._sums.get(name, ())])
        for name in dict.fromkeys(name for meters in every for name in meters._values):
            found[name] = _total([part for meters in every for part in meters._values.get(name, ())]) / count
        mismatches = [value for meters in every for value in meters._mismatch]
        if mismatches:
            found["mismatch"] = max(mismatches)
        num_tokens = sum(meters._num_tokens for meters in every)
        return found | {"num_targets": float(count), "num_tokens": float(num_tokens)}


def _products(a: Tensor, b: Tensor) -> np.ndarray:
    """Of float32 numbers: exact in float64."""
    return a.double().numpy(force=True) * b.double().numpy(force=True)


def _total(parts: Sequence[np.ndarray]) -> float:
    """The sum, rounded once."""
    return math.fsum(number for part in parts for number in part.tolist())
