"""What a recipe achieved, read from its folder: the table of before and after, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from random import Random

from mohist.cost import Cost, Ledger, Prices
from mohist.evaluate.evaluation import Evaluation
from mohist.evaluate.statistics import mean, pass_at_k
from mohist.recipes.countdown import guess
from mohist.recipes.general import read_general
from mohist.recipes.r1 import R1Config
from mohist.tasks.task import Task
from mohist.types import Message, Problem

__all__ = ["Outcome", "read_outcome"]

CHANCE_SAMPLES = 64
"""Random answers to each problem, from which the level of chance is estimated."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Evaluations on held-out problems and costs."""

    before: tuple[Evaluation, ...]
    """The model that reinforcement learning began with: greedy, then sampled."""
    after: tuple[Evaluation, ...]
    """The model that came out, asked the same."""
    chance: tuple[tuple[int, float], ...]
    """(k, how often one of k random answers is right); empty where nobody can make random answers."""
    general: tuple[Evaluation, ...]
    """Both models asked unrelated questions; empty where the recipe asks none."""
    ledger: Ledger
    """All stages, by stage and kind of work."""
    prices: Prices

    def text(self) -> str:
        """Table and ledger for people."""
        num_problems = len(self.before[0].results)
        rows = [[f"{num_problems} held-out problems", "chance", "before", "after"]]
        chance = dict(self.chance)
        for before, after in zip(self.before, self.after, strict=True):
            accuracy = [_percent(chance.get(1)), _percent(before.accuracy), _percent(after.accuracy)]
            rows.append([f"right, {before.title}", *accuracy])
            for k in before.ks[-1:]:
                pair = [_percent(one.pass_at(k)[0]) for one in (before, after)]
                rows.append([f"right, best of {k}", _percent(chance.get(k)), *pair])
        lengths = [f"{one[0].summary['tokens']:.0f}" for one in (self.before, self.after)]
        rows.append(["tokens of an answer, greedy", "", *lengths])
        if self.general:
            pair = [_percent(one.accuracy) for one in self.general]
            rows.append([f"right, {len(self.general[0].results)} unrelated questions", "", *pair])
        costs = [[name, cost.line(self.prices)] for name, cost in self.ledger.entries.items()]
        costs.append(["total", self.ledger.total.line(self.prices)])
        return f"{_aligned(rows)}\n\n{_aligned(costs)}"


def read_outcome(config: R1Config) -> Outcome:
    """What the stages in the recipe's folder left behind."""
    reinforce = config.reinforced("")
    evaluations = [
        tuple(map(Evaluation.from_json, json.loads(path.read_text(encoding="utf-8"))))
        for path in (reinforce.run.folder / "evaluations" / f"step-{n}.json" for n in (0, reinforce.steps))
    ]
    ledger = Ledger()
    stages = ["cold_start"] if config.cold_start is not None else []
    for stage in (*stages, "reinforce"):
        path = config.folder / stage / "ledger.json"
        for name, cost in Ledger.from_json(path.read_text(encoding="utf-8")).entries.items():
            ledger.add(f"{stage}, {name}", cost)
    general: tuple[Evaluation, ...] = ()
    if config.general is not None:
        general = read_general(config.general_before), read_general(config.general_after)
        ledger.add("unrelated questions", sum((one.cost for one in general), start=Cost()))
    chance: tuple[tuple[int, float], ...] = ()
    if config.teacher is not None:
        with closing(reinforce.task.make()) as task:
            ks = sorted({1, *(k for one in evaluations[0] for k in one.ks)})
            chance = _chance(task, reinforce.evaluation.problems(task), ks)
    before, after = evaluations
    return Outcome(
        before=before, after=after, chance=chance, general=general, ledger=ledger, prices=config.prices
    )


def _chance(task: Task, problems: Sequence[Problem], ks: Sequence[int]) -> tuple[tuple[int, float], ...]:
    """For each k, the mean chance that one of k random expressions is right."""
    rng = Random("chance")
    num_right = [
        sum(
            task.grade(problem, Message(role="assistant", content=guess(problem, rng))).reward == 1
            for _ in range(CHANCE_SAMPLES)
        )
        for problem in problems
    ]
    return tuple((k, mean([pass_at_k(CHANCE_SAMPLES, n, k) for n in num_right])) for k in ks)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
