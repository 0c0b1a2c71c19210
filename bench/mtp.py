"""Guessing by a model's own multi-token module beside plain decoding, where it pays and where it cannot.

The model of `mohist r1 quickstart`, whose steps take a tenth of a millisecond; the same made large, and a
model of random weights, whose steps take milliseconds (see `bench.mtp_files`).
"""

from __future__ import annotations

from functools import partial
from random import Random

from bench.measure import progress
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


def nonsense(seed: int) -> str:
    """Numbers, the only words that the random model knows."""
    draw = Random(seed)
    return " ".join(str(draw.randrange(1000)) for _ in range(12))


def tasks(name: str, kind: partial[Task]) -> dict[str, Task]:
    """With the likeliest tokens, and with drawn ones."""
    return {f"{name}, greedy": kind(temperature=0.0), f"{name}, sampled": kind(temperature=1.0)}


MATCHES = [
    Match("mtp", "quickstart", "mtp", tasks("countdown", partial(Task, countdown, num_questions=20)), {}),
    Match("mtp", "trained", "mtp", tasks("countdown", partial(Task, countdown, num_questions=10)), {}),
    Match("mtp", "random", "mtp", tasks("nonsense", partial(Task, nonsense, num_questions=1)), {}),
]


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Guesses by the MTP module."""
    if not crew.has("quickstart"):
        progress("  there is no model in runs/quickstart (make quickstart): nothing that guesses right")
    matches = [match for match in MATCHES if crew.has(match.model)]
    return compare(crew, "Guessing by the MTP module", matches, threads, repeats)
