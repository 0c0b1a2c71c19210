"""Guessing by a model's own multi-token module beside plain decoding: the model of `mohist r1 quickstart`."""

from __future__ import annotations

from functools import partial
from random import Random

from bench.report import Report
from bench.speculate import Match, Task, compare
from bench.workers import Crew

__all__ = ["REPEATS", "run"]

REPEATS = 3


def countdown(seed: int) -> str:
    """Three numbers and what to make of them, as the model was trained for."""
    draw = Random(seed)
    numbers = " ".join(str(draw.randint(1, 9)) for _ in range(3))
    return f"{numbers} make {draw.randint(1, 50)}"


Countdown = partial(Task, countdown, num_questions=50)
TASKS = {"countdown, greedy": Countdown(temperature=0.0), "countdown, sampled": Countdown(temperature=1.0)}
MATCH = Match("mtp", "quickstart", "mtp", TASKS, {})


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Guesses by the MTP module."""
    return compare(crew, "Guessing by the MTP module", [MATCH], threads, repeats)
