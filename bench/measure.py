"""Runs that take turns, and the few statistics that are said about them. Standard library only."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.machine import Ticks, load_between

__all__ = ["Goal", "Run", "Series", "alternate", "at_least", "at_most", "progress", "ratio_goal"]

Run = Callable[[int], float]
"""One measurement; the argument is a seed, different in every run."""

QUIET = 0.05
"""Share of the machine that others may use in a run that counts at once."""
TRIES, PAUSE_S = 4, 1.0
"""Runs at most for one that counts, and the pause between them."""


def progress(text: str) -> None:
    """Tell whoever waits, on standard error."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Series:
    """What one contestant measured, round by round."""

    name: str
    values: tuple[float, ...]
    others: tuple[float, ...] = ()
    """Share of the machine that other processes used in each run, where it was watched."""

    @property
    def median(self) -> float:
        """The value in the middle."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)

    def minus(self, other: Series, name: str) -> Series:
        """The differences, round by round."""
        return Series(name, tuple(a - b for a, b in zip(self.values, other.values, strict=True)))


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that was aimed for, and what was measured."""

    what: str
    measured: float
    low: float
    high: float
    """`low` to `high`: the spread over the rounds."""
    bound: float
    sign: str
    """">=" or "<=": on which side of the bound the figure is to be."""
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is where it should be."""
        return self.measured >= self.bound if self.sign == ">=" else self.measured <= self.bound


def at_least(what: str, series: Series, bound: float, unit: str = "") -> Goal:
    """The median of a series has to reach a bound."""
    return Goal(what, series.median, *series.spread, bound, ">=", unit)


def at_most(what: str, series: Series, bound: float, unit: str = "") -> Goal:
    """The median of a series has to stay below a bound."""
    return Goal(what, series.median, *series.spread, bound, "<=", unit)


def ratio_goal(what: str, ours: Series, theirs: Series, bound: float) -> Goal:
    """Our median over theirs; its spread is that of the rounds, in which both ran one after the other."""
    rounds = [a / b for a, b in zip(ours.values, theirs.values, strict=True)]
    return Goal(what, ours.median / theirs.median, min(rounds), max(rounds), bound, ">=", "x")


def alternate(
    runs: Mapping[str, Run],
    repeats: int,
    watch: Callable[[], Ticks],
    *,
    warm_up: bool = True,
    tries: int = TRIES,
) -> dict[str, Series]:
    """Run everything once a round, there and back again so that no one always runs after the same one.

    The first of all rounds warms caches up and does not count, if there is `warm_up`. `watch` says how much
    processor time went to us and to others (see `undisturbed`).
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for index in range(0 if warm_up else 1, repeats + 1):
        for name in list(runs) if index % 2 else list(runs)[::-1]:
            value, others = undisturbed(runs[name], index * tries, watch, tries if index else 1)
            progress(f"  {index or 'warm-up'}/{repeats} {name}: {value:.4g}{disturbance(others)}")
            if index:
                measured[name].append((value, others))
    return {
        name: Series(name, tuple(value for value, _ in pairs), tuple(others for _, others in pairs))
        for name, pairs in measured.items()
    }


def undisturbed(run: Run, seed: int, watch: Callable[[], Ticks], tries: int) -> tuple[float, float]:
    """The first run that had the machine to itself, or of `tries` the one that others disturbed least.

    Which run counts depends on what others did, never on how fast it was. Returns its value and the share of
    the machine that others used.
    """
    best: tuple[float, float] | None = None
    for attempt in range(tries):
        before = watch()
        value = run(seed + attempt)
        others = load_between(before, watch()).others
        if best is None or others < best[1]:
            best = value, others
        if others <= QUIET:
            break
        if attempt + 1 < tries:
            progress(f"    again:{disturbance(others)}")
            time.sleep(PAUSE_S)
    assert best is not None
    return best


def disturbance(others: float) -> str:
    """What others used, if it matters."""
    return "" if others <= QUIET else f" (others used {others:.0%} of the machine)"
