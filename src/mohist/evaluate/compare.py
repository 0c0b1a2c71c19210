"""Two models on the same problems: what differs beyond chance, and where."""

from __future__ import annotations

from dataclasses import dataclass

from mohist.errors import ConfigError
from mohist.evaluate.evaluation import Evaluation, Result
from mohist.evaluate.statistics import Interval, bootstrap, mean, sign_test

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How `ours` differs from `theirs`, problem by problem."""

    ours: Evaluation
    theirs: Evaluation
    difference: float
    """Of the accuracies; above 0 where ours is better."""
    interval: Interval
    """Of the difference: the bootstrap over problems, which keeps the two answers to a problem together."""
    better: tuple[tuple[Result, Result], ...]
    """Problems that ours answers better, as (ours, theirs)."""
    worse: tuple[tuple[Result, Result], ...]
    p_value: float
    """Two-sided, of the exact sign test over problems; for single answers this is McNemar's test."""


def compare(ours: Evaluation, theirs: Evaluation) -> Comparison:
    """Pair two evaluations by problem. Raises ConfigError unless both are of the same problems."""
    pairs = list(zip(ours.results, theirs.results, strict=False))
    if len(ours.results) != len(theirs.results) or any(a.problem != b.problem for a, b in pairs):
        raise ConfigError(
            f"{ours.model} and {theirs.model} were asked different problems: evaluate both with the same "
            "task, split, num_problems and problem_seed"
        )
    differences = [a.accuracy - b.accuracy for a, b in pairs]
    better = tuple(pair for pair, d in zip(pairs, differences, strict=True) if d > 0)
    worse = tuple(pair for pair, d in zip(pairs, differences, strict=True) if d < 0)
    return Comparison(
        ours=ours,
        theirs=theirs,
        difference=mean(differences),
        interval=bootstrap(differences),
        better=better,
        worse=worse,
        p_value=sign_test(len(better), len(worse)),
    )
