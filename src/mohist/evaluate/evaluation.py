"""How a model did on the problems of a task: every answer's grade, and what follows from them.

An `Evaluation` is plain data that goes into a JSON file and comes back equal, so that a later model can be
compared with it. What is said about it is computed from the grades when it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mohist.cost import Cost
from mohist.evaluate.statistics import Interval, bootstrap, mean, pass_at_k, wilson
from mohist.types import FinishReason, Group, Problem, Rollout

__all__ = ["Evaluation", "GradedAnswer", "Result"]


@dataclass(frozen=True, kw_only=True)
class GradedAnswer:
    """One answer to a problem."""

    content: str
    reasoning: str | None
    accuracy: float
    """0 to 1: the part of the grade with this name, or the reward of a grade without it."""
    reward: float
    parts: Mapping[str, float]
    note: str
    num_tokens: int
    finish_reason: FinishReason

    @classmethod
    def of(cls, rollout: Rollout) -> GradedAnswer:
        """What a rollout says, without its tokens."""
        grade = rollout.grade
        return cls(
            content=rollout.message.content,
            reasoning=rollout.message.reasoning,
            accuracy=grade.parts.get("accuracy", grade.reward),
            reward=grade.reward,
            parts=dict(grade.parts),
            note=grade.note,
            num_tokens=len(rollout.completion.tokens),
            finish_reason=rollout.completion.finish_reason,
        )

    @property
    def right(self) -> bool:
        """Whether it is wholly right."""
        return self.accuracy >= 1


@dataclass(frozen=True, kw_only=True)
class Result:
    """All answers to one problem."""

    problem: Problem
    answers: tuple[GradedAnswer, ...]

    @classmethod
    def of(cls, group: Group) -> Result:
        """What a group of rollouts says."""
        return cls(problem=group.problem, answers=tuple(map(GradedAnswer.of, group.rollouts)))

    @property
    def accuracy(self) -> float:
        """The mean over the answers."""
        return mean([answer.accuracy for answer in self.answers])

    @property
    def num_right(self) -> int:
        """How many answers are wholly right."""
        return sum(answer.right for answer in self.answers)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's answers to a list of problems, equally many to each."""

    model: str
    """Where it came from."""
    title: str
    """How it was asked: "greedy", "16 samples at temperature 1"."""
    results: tuple[Result, ...]
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        assert self.results, "an evaluation without problems"
        assert len({len(result.answers) for result in self.results}) == 1, "as many answers to every problem"

    @property
    def num_samples(self) -> int:
        """Answers to each problem."""
        return len(self.results[0].answers)

    @cached_property
    def answers(self) -> tuple[GradedAnswer, ...]:
        """All answers to all problems."""
        return tuple(answer for result in self.results for answer in result.answers)

    @cached_property
    def accuracy(self) -> float:
        """The mean over all answers ("mean@n")."""
        return mean([answer.accuracy for answer in self.answers])

    @cached_property
    def accuracy_interval(self) -> Interval:
        """Of `accuracy`: Wilson's where every problem is wholly right or wholly wrong, else the bootstrap."""
        means = [result.accuracy for result in self.results]
        if all(value in (0, 1) for value in means):
            return wilson(means.count(1), len(means))
        return bootstrap(means)

    def pass_at(self, k: int) -> tuple[float, Interval]:
        """The probability that one of k answers is wholly right, a mean over problems, and its interval."""
        each = [pass_at_k(self.num_samples, result.num_right, k) for result in self.results]
        return mean(each), bootstrap(each)

    @cached_property
    def ks(self) -> tuple[int, ...]:
        """The numbers of answers for which pass@k is reported: powers of two, and all of them."""
        powers = {2**i for i in range(self.num_samples.bit_length())}
        return tuple(sorted(k for k in powers | {self.num_samples} if 1 < k <= self.num_samples))

    @cached_property
    def parts(self) -> dict[str, float]:
        """The mean of every part that all grades have."""
        names = [name for name in self.answers[0].parts if all(name in a.parts for a in self.answers)]
        return {name: mean([answer.parts[name] for answer in self.answers]) for name in names}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures by name, as JSON has them."""
        lengths = sorted(answer.num_tokens for answer in self.answers)
        truncated = [float(answer.finish_reason == "length") for answer in self.answers]
        return {
            "problems": len(self.results),
            "samples": self.num_samples,
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "pass": {str(k): self.pass_at(k)[0] for k in self.ks},
            "reward": mean([answer.reward for answer in self.answers]),
            "parts": self.parts,
            "tokens": mean(lengths),
            "tokens_95th": lengths[(len(lengths) - 1) * 95 // 100],
            "truncated": mean(truncated),
        }

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON data."""
        return {"summary": self.summary, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote."""
        results = [
            Result(
                problem=Problem(**result["problem"]),
                answers=tuple(GradedAnswer(**answer) for answer in result["answers"]),
            )
            for result in data["results"]
        ]
        cost = Cost(**data["cost"])
        return cls(model=data["model"], title=data["title"], results=tuple(results), cost=cost)
