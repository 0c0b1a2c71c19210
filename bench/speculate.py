"""Guessing tokens by prompt lookup beside plain decoding: answers that repeat their prompt, and free ones."""

from __future__ import annotations

import random
from functools import partial

from bench.measure import Run, Series, alternate, ratio_goal
from bench.report import Report, series_table, table
from bench.workers import Crew, Worker

__all__ = ["REPEATS", "TASKS", "run"]

REPEATS = 5
FORMAT = "q4_1"
MAX_TOKENS = 200

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


TASKS = {
    "quote a text": lambda seed: f"Repeat this text word for word:\n\n{story(seed)}",
    "rewrite code": lambda seed: f"Add a docstring to this function:\n\n```python\n{program(seed)}```",
    "write freely": lambda seed: (
        f"Tell me a story about {random.Random(seed).choice(PEOPLE)} and number {seed}."
    ),
}
"""A question of each kind, by seed."""
TEMPERATURES = {"quote a text": 0.0, "rewrite code": 0.3, "write freely": 0.8}


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Tokens per second of whole answers, with and without guesses, which must be equal."""
    plain, lookup = (crew.worker(engine, FORMAT, threads) for engine in ("Mohist", "Mohist lookup"))
    contest = Contest()
    runs: dict[str, Run] = {
        f"{task}, {how}": partial(contest.rate, worker, task)
        for task in TASKS
        for how, worker in (("plain", plain), ("lookup", lookup))
    }
    series = alternate(runs, repeats, crew.ticks)
    return Report(
        title=f"Guessing by prompt lookup, one stream, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table("", series.values(), "tokens/s"),
            table(["", "tokens out", "guessed", "right"], contest.rows()),
        ],
        goals=[
            ratio_goal(
                f"{task}: lookup / plain",
                series[f"{task}, lookup"],
                series[f"{task}, plain"],
                1.5 if task == "quote a text" else 0.95,
            )
            for task in TASKS
        ],
        notes=[
            f"SmolLM2, {FORMAT.upper()}; whole answers of up to {MAX_TOKENS} tokens with their prompts, "
            "which are new in every run. Both answer the same questions with the same seeds, and alike.",
        ],
        data=dict[str, Series](series),
        failed=bool(contest.differing),
    )


class Contest:
    """The answers so far: both sides must give the same ones."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], tuple[int, ...]] = {}
        self._sums: dict[str, list[int]] = {}
        self.differing: list[tuple[str, int]] = []

    def rate(self, worker: Worker, task: str, seed: int) -> float:
        """Tokens per second of one answer."""
        found = worker.call("answer", TASKS[task](seed), seed, TEMPERATURES[task], MAX_TOKENS)
        if self._answers.setdefault((task, seed), found.tokens) != found.tokens:
            self.differing.append((task, seed))
        if worker.spec.engine.endswith("lookup"):
            sums = self._sums.setdefault(task, [0, 0, 0])
            for index, value in enumerate((len(found.tokens), found.drafted, found.accepted)):
                sums[index] += value
        return len(found.tokens) / found.seconds

    def rows(self) -> list[list[str]]:
        """Of each task: tokens out, guessed, right, in all runs together."""
        return [[task, *map(str, sums)] for task, sums in self._sums.items()]
