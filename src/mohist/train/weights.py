"""How much each token counts: decided over the whole accumulated batch, before it is split.

A loss is the sum over all targets of weight times loss. Since the weights are final before `pack`, no result
depends on the size of micro-batches, on accumulation or on ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from mohist.errors import ConfigError
from mohist.types import Sample

__all__ = ["Aggregation", "weigh"]

Aggregation = Literal["token", "sample", "group", "constant"]
"""What every unit counts the same of:

- "token": every token of the batch (DAPO, arXiv 2503.14476, equation 8).
- "sample": every sample, its tokens sharing it (GRPO, arXiv 2402.03300, equation 3; GSPO).
- "group": every group (prompt), its tokens sharing it (ScaleRL's prompt average, arXiv 2510.13786).
- "constant": every token counts 1 / (samples * constant) (Dr.GRPO, arXiv 2503.20783, where the constant is
  the most tokens that a completion may have).
"""


def weigh(
    samples: Sequence[Sample],
    how: Aggregation,
    *,
    groups: Sequence[int] | None = None,
    constant: float | None = None,
) -> list[Sample]:
    """The same samples with final weights, in proportion to their own, by `how` (see `Aggregation`).

    `groups` says which group each sample is in, for "group"; `constant` is in tokens, for "constant". All
    samples of the accumulated batch must be there, those without signal included: they count in the mean.
    Raises ConfigError, when "group" or "constant" lacks its argument.
    """
    totals = [sum(sample.weights[1:]) for sample in samples]
    divisors = _divisors(totals, how, groups, constant)
    return [
        dataclasses.replace(sample, weights=tuple(w / divisor if w else 0.0 for w in sample.weights))
        for sample, divisor in zip(samples, divisors, strict=True)
    ]


def _divisors(
    totals: Sequence[float], how: Aggregation, groups: Sequence[int] | None, constant: float | None
) -> list[float]:
    """What each sample's weights are divided by."""
    match how:
        case "token":
            return [sum(totals) or 1.0] * len(totals)
        case "sample":
            return [(total or 1.0) * len(totals) for total in totals]
        case "group":
            if groups is None:
                raise ConfigError("aggregation = 'group': these samples are in no groups; choose another")
            in_group: dict[int, float] = {}
            for group, total in zip(groups, totals, strict=True):
                in_group[group] = in_group.get(group, 0.0) + total
            return [(in_group[group] or 1.0) * len(in_group) for group in groups]
        case "constant":
            if constant is None or constant <= 0:
                raise ConfigError(f"aggregation = 'constant': constant = {constant}, not a positive number")
            return [len(totals) * constant] * len(totals)
