"""How much better than its like an answer was: from the rewards of a step's groups to advantages.

A = (r - b) / s, with a baseline b and a scale s:

| | baseline | scale |
|---|---|---|
| GRPO (arXiv 2402.03300), DAPO (2503.14476), GSPO (2507.18071) | group | group |
| Dr. GRPO (2503.20783) | group | none |
| RLOO (2402.14740) | leave_one_out | none |
| REINFORCE++ with baseline (2501.03262), ScaleRL (2510.13786) | group | batch |
| REINFORCE++ (2501.03262) | batch | batch |

Rewards that differ by rounding alone are equal, so a group of equal rewards has advantages of exactly zero:
divided by the standard deviation of its noise, it would count as much as any other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from mohist.errors import ConfigError
from mohist.evaluate.statistics import mean
from mohist.types import Rollout

__all__ = ["AdvantageConfig", "Overlong", "advantages", "shaped_reward"]

NOISE = 1e-9
"""Rewards closer together than this are equal; where they are larger than 1, than this share of them."""


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """What an answer's reward is compared with."""

    baseline: Literal["group", "leave_one_out", "batch"] = "group"
    """Subtracted from a reward: the mean of its group, of the group's other answers, or of the batch."""
    scale: Literal["none", "group", "batch"] = "group"
    """Divides the difference: 1, the standard deviation of the group's rewards, or that of all differences
    in the batch."""


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """What becomes of answers that reach, or come near, the token limit."""

    margin_tokens: int = 0
    """DAPO's soft punishment: over the last so many tokens before the limit the reward falls by up to 1;
    0 punishes none."""
    drop: bool = False
    """Take no gradient from answers that were cut off at the limit; they still count in the baseline."""

    def __post_init__(self) -> None:
        if self.margin_tokens < 0:
            raise ConfigError(f"margin_tokens = {self.margin_tokens}: it must be 0 or a number of tokens")


def shaped_reward(rollout: Rollout, overlong: Overlong, *, max_tokens: int) -> float:
    """The grade's reward, less the punishment for length (DAPO, arXiv 2503.14476, equation 13).

    The paper's L_max is `max_tokens`, its L_cache the margin. An answer that was cut off loses 1.
    """
    reward, length, margin = rollout.grade.reward, len(rollout.completion.tokens), overlong.margin_tokens
    if not margin:
        return reward
    if rollout.completion.finish_reason == "length":
        return reward - 1
    return reward - min(1.0, max(0, length - (max_tokens - margin)) / margin)


def advantages(rewards: Sequence[Sequence[float]], config: AdvantageConfig) -> list[list[float]]:
    """The advantage of every answer, in the order of `rewards`: one inner sequence for each group.

    A group without signal has nothing but zeros. Standard deviations are those of a sample (n - 1), as in the
    published implementations.
    """
    sizes = [len(group) for group in rewards]
    pooled = [reward for group in rewards for reward in group]
    if config.baseline == "batch":
        differences = _split(_centred(pooled), sizes)
    else:
        differences = [_centred(group) for group in rewards]
    if config.baseline == "leave_one_out":
        differences = [[_against_others(d, len(group)) for d in group] for group in differences]
    match config.scale:
        case "none":
            return differences
        case "group":
            spreads = [_deviation(group) for group in rewards]
        case "batch":
            spreads = [_deviation([d for group in differences for d in group])] * len(rewards)
    return [
        [d / spread if spread else 0.0 for d in group]
        for group, spread in zip(differences, spreads, strict=True)
    ]


def _centred(values: Sequence[float]) -> list[float]:
    """The values less their mean; exactly 0 where all are equal but for rounding."""
    if _equal(values):
        return [0.0] * len(values)
    middle = mean(values)
    return [value - middle for value in values]


def _against_others(difference: float, count: int) -> float:
    """r less the mean of the others, from r less the mean of all: n / (n - 1) times as much."""
    return difference * count / (count - 1) if difference else 0.0


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; exactly 0 where all are equal but for rounding."""
    squares = math.fsum(d * d for d in _centred(values))
    return math.sqrt(squares / (len(values) - 1)) if squares else 0.0


def _equal(values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    return high - low <= NOISE * max(1.0, abs(low), abs(high))


def _split(values: Sequence[float], sizes: Sequence[int]) -> list[list[float]]:
    rest = iter(values)
    return [list(islice(rest, size)) for size in sizes]
