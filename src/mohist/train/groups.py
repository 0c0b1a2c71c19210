"""From problems in order to the groups of a step, and from those to samples to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any

from mohist.data.order import items
from mohist.train.weights import Aggregation, weigh
from mohist.types import Group, Problem, Sample

__all__ = ["Asked", "ProblemOrder", "measured", "to_samples"]


class ProblemOrder:
    """Every problem once an epoch, in an order that depends on seed and epoch alone."""

    def __init__(
        self,
        problems: Sequence[Problem],
        *,
        seed: int,
        chosen: Sequence[int] | None = None,
        position: int = 0,
    ) -> None:
        """Take the problems at the indices `chosen` (all, if None), from the `position`-th in order on."""
        self._problems = problems if chosen is None else [problems[i] for i in chosen]
        self._chosen, self._position = chosen, position
        self._order = items(len(self._problems), seed, position)

    def take(self) -> Problem:
        """The next one."""
        self._position += 1
        return self._problems[next(self._order)]

    def state(self) -> dict[str, Any]:
        """Where it is: arguments for the next one to go on from here."""
        return {"chosen": self._chosen, "position": self._position}


@dataclass(kw_only=True)
class Asked:
    """What came back from the problems of a step."""

    groups: list[Group] = field(default_factory=list)
    """To learn from. Those without signal that no other was asked for are among them."""
    replaced: list[Group] = field(default_factory=list)
    """Groups without signal in whose place another problem was asked."""


def to_samples(
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float]],
    aggregation: Aggregation,
    *,
    max_tokens: int,
    drop_truncated: bool,
) -> list[Sample]:
    """The answers that teach something, weighed among all answers of the step.

    One with an advantage of 0 has no gradient: it counts in the mean, and is left out. `max_tokens` is the
    constant of Dr.GRPO's aggregation; `drop_truncated` gives answers that were cut off no weight.
    """
    samples: list[Sample] = []
    owners: list[int] = []
    for index, (group, row) in enumerate(zip(groups, advantages, strict=True)):
        context = len(group.prompt)
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            answer = rollout.completion
            counts = not (drop_truncated and answer.finish_reason == "length")
            samples.append(
                Sample(
                    tokens=group.prompt + answer.tokens,
                    weights=(0.0,) * context + (float(counts),) * len(answer.tokens),
                    num_shared=context,
                    logprobs=(0.0,) * context + answer.sampled_logprobs,
                    advantage=advantage,
                )
            )
            owners.append(index)
    weighed = weigh(samples, aggregation, groups=owners, constant=float(max_tokens))
    return [sample for sample in weighed if sample.advantage]


def measured(asked: Asked, advantages: Sequence[Sequence[float]]) -> dict[str, Any]:
    """What a step's answers say about the policy: means over all of them, replaced groups included.

    "entropy" is minus the mean log-probability of the sampled tokens, an unbiased estimate of the entropy of
    the distributions that they were sampled from; "silent" is the share of groups that teach nothing.
    """
    rollouts = [rollout for group in (*asked.groups, *asked.replaced) for rollout in group.rollouts]
    rewards = [rollout.grade.reward for rollout in rollouts]
    lengths = [len(rollout.completion.tokens) for rollout in rollouts]
    parts = [name for name in rollouts[0].grade.parts if all(name in r.grade.parts for r in rollouts)]
    silent = len(asked.replaced) + sum(not any(row) for row in advantages)
    return {
        "reward": fmean(rewards),
        "reward_std": pstdev(rewards),
        **{name: fmean(rollout.grade.parts[name] for rollout in rollouts) for name in parts},
        "length": fmean(lengths),
        "length_max": max(lengths),
        "truncated": fmean(rollout.completion.finish_reason == "length" for rollout in rollouts),
        "entropy": -fmean(logprob for r in rollouts for logprob in r.completion.sampled_logprobs),
        "groups": len(asked.groups),
        "refills": len(asked.replaced),
        "silent": silent / (len(asked.groups) + len(asked.replaced)),
    }
