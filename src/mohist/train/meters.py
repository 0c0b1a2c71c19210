"""Means over the targets of a step that are the same bits however the targets were split and ordered."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
        self._mismatch: list[float] = []
        self._num_tokens = 0

    def add(self, batch: Batch, losses_J: Tensor, logprobs_J: Tensor, values: Mapping[str, Tensor]) -> None:
        """Take note of one micro-batch."""
        # a product of two float32 is exact in float64
        self._losses.append(losses_J.double().numpy(force=True) * batch.weights_J.double().numpy(force=True))
        for name, value_J in {"logprob": logprobs_J, **values}.items():
            self._values.setdefault(name, []).append(value_J.double().numpy(force=True))
        if batch.sampler_logprobs_J is not None:
            self._mismatch.append(float((logprobs_J - batch.sampler_logprobs_J).abs().max()))
        self._num_tokens += batch.num_tokens

    def summary(self, ranks: Ranks) -> dict[str, float]:
        """The weighted sum of losses, means of the rest, the largest mismatch, and counts, over all ranks."""
        every = ranks.gather((self._losses, self._values, self._mismatch, self._num_tokens))
        losses = np.concatenate([part for losses, _, _, _ in every for part in losses] or [np.zeros(0)])
        found = {"loss": math.fsum(losses)}
        for name in dict.fromkeys(name for _, values, _, _ in every for name in values):
            parts = [part for _, values, _, _ in every for part in values.get(name, ())]
            found[name] = math.fsum(np.concatenate(parts)) / len(losses)
        mismatches = [value for _, _, mismatch, _ in every for value in mismatch]
        if mismatches:
            found["mismatch"] = max(mismatches)
        tokens = sum(count for _, _, _, count in every)
        return found | {"num_targets": float(len(losses)), "num_tokens": float(tokens)}
