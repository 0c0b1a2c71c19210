"""Guessing tokens by prompt lookup beside plain decoding: answers that repeat their prompt, and free ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

from bench.measure import Goal, Run, Series, alternate, ratio_goal
from bench.report import Report, series_table, table
from bench.workers import Crew, format_name

__all__ = ["REPEATS", "TASKS", "Match", "Task", "compare", "run"]

REPEATS = 5
FORMAT = "q4_1"
MAX_TOKENS = 200
STAYS = 0.95
"""Least ratio of speeds where guesses need not pay: they turn themselves off."""

PEOPLE = ("Amina", "Bertrand", "Chiyo", "Dolores", "Emeka", "Fatima", "Gunnar", "Hyejin")
PLACES = ("Lisbon", "Osaka", "Nairobi", "Quito", "Tallinn", "Hanoi", "Perth", "Minsk")
THINGS = ("a brass telescope", "an old atlas", "three clay jars", "a box of seeds", "a wool coat", "a violin")


def story(seed: int) -> str:
    """A paragraph that no cache has seen."""
    draw = random.Random(seed)
    (one, other), (here, there) = draw.sample(PEOPLE, 2), draw.sample(PLACES, 2)
    thing, price, day = draw.choice(THINGS), draw.randrange(20, 900), draw.randrange(2, 28)
    return (
        f"On the {day}th of May {one} left {here} with {thing} that had cost {price} crowns. The train to "
        f"{there} was late, so {one} waited at the station and talked to {other}, who sold newspapers there. "
        f"{other} had never seen {thing} and asked what it was worth. In the evening both of them went to "
        f"the market of {there}, where nobody wanted to pay more than {price // 2} crowns."
    )


def program(seed: int) -> str:
    """A few lines of Python that no cache has seen."""
    draw = random.Random(seed)
    a, b, c = draw.sample(("price", "weight", "length", "score", "budget", "delay", "width"), 3)
    return (
        f"def total_{a}(items):\n    total = {draw.randrange(100)}\n    for item in items:\n"
        f"        if item.{b} > {draw.randrange(100)}:\n            total += item.{a} * item.{c}\n"
        f"        elif item.{c} < {draw.randrange(100)}:\n            total -= item.{a}\n    return total\n"
    )


@dataclass(frozen=True, slots=True)
class Task:
    """Questions of a kind, by seed."""

    ask: Callable[[int], str]
    temperature: float
    num_questions: int = 1
    """In one measurement."""


TASKS = {
    "quote a text": Task(lambda seed: f"Repeat this text word for word:\n\n{story(seed)}", 0.0),
    "rewrite code": Task(
        lambda seed: f"Add a docstring to this function:\n\n```python\n{program(seed)}```", 0.3
    ),
    "write freely": Task(
        lambda seed: f"Tell me a story about {random.Random(seed).choice(PEOPLE)} and number {seed}.", 0.8
    ),
}


@dataclass(frozen=True, slots=True)
class Match:
    """Plain decoding of one model beside decoding with guesses."""

    name: str
    model: str
    """Key of the weights (see `bench.files`)."""
    how: str
    """As in `LLM.load(speculate=...)`, but that `draft:` is followed by a key of weights."""
    tasks: Mapping[str, Task]
    goals: Mapping[str, float]
    """The least ratio of speeds of tasks that have another one than `STAYS`."""


LOOKUP = Match("lookup", FORMAT, "lookup", TASKS, {"quote a text": 1.5})


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Guesses from the text so far."""
    return compare(crew, "Guessing by prompt lookup", [LOOKUP], threads, repeats)


def compare(crew: Crew, title: str, matches: Sequence[Match], threads: int, repeats: int) -> Report:
    """Tokens per second of whole answers, with and without guesses, which must be equal."""
    contests = [Contest(crew, match, threads) for match in matches]
    runs = {name: run for contest in contests for name, run in contest.runs().items()}
    series = alternate(runs, repeats, crew.ticks)
    return Report(
        title=f"{title}, one stream, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table("", series.values(), "tokens/s"),
            table(["", "tokens out", "guessed", "right"], [row for c in contests for row in c.rows()]),
        ],
        goals=[goal for contest in contests for goal in contest.goals(series)],
        notes=[
            f"Whole answers of up to {MAX_TOKENS} tokens with their prompts, which are new in every run. "
            "Both sides answer the same questions with the same seeds, and alike.",
        ],
        data=dict[str, Series](series),
        failed=any(contest.differing for contest in contests),
    )


class Contest:
    """A match under way: both sides must give the same answers."""

    def __init__(self, crew: Crew, match: Match, threads: int) -> None:
        self._match = match
        engines = {"plain": "Mohist", match.name: f"Mohist {match.how}"}
        self._sides = {side: crew.worker(engine, match.model, threads) for side, engine in engines.items()}
        self._answers: dict[tuple[str, int], tuple[int, ...]] = {}
        self._sums = {task: [0, 0, 0] for task in match.tasks}
        self.differing: list[tuple[str, int]] = []

    def runs(self) -> dict[str, Run]:
        """One measurement of each task by each side."""
        pairs = product(self._match.tasks, self._sides)
        return {self._name(task, side): partial(self._rate, task, side) for task, side in pairs}

    def goals(self, series: Mapping[str, Series]) -> list[Goal]:
        """How much faster guessing has to be."""
        return [
            ratio_goal(
                f"{self._name(task, self._match.name)} / plain",
                series[self._name(task, self._match.name)],
                series[self._name(task, "plain")],
                self._match.goals.get(task, STAYS),
            )
            for task in self._match.tasks
        ]

    def rows(self) -> list[list[str]]:
        """Of each task: tokens out, guessed, right, in all runs together."""
        names = (self._name(task, self._match.name) for task in self._sums)
        return [[name, *map(str, sums)] for name, sums in zip(names, self._sums.values(), strict=True)]

    def _name(self, task: str, side: str) -> str:
        return f"{format_name(self._match.model)}, {task}, {side}"

    def _rate(self, task: str, side: str, seed: int) -> float:
        """Tokens per second of the answers to the questions of a seed."""
        what, worker = self._match.tasks[task], self._sides[side]
        num_tokens, seconds = 0, 0.0
        for number in range(seed * what.num_questions, (seed + 1) * what.num_questions):
            found = worker.call("answer", what.ask(number), number, what.temperature, MAX_TOKENS)
            if self._answers.setdefault((task, number), found.tokens) != found.tokens:
                self.differing.append((task, number))
            num_tokens, seconds = num_tokens + len(found.tokens), seconds + found.seconds
            if side != "plain":
                for index, value in enumerate((len(found.tokens), found.drafted, found.accepted)):
                    self._sums[task][index] += value
        return num_tokens / seconds
