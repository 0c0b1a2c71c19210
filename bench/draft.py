"""Guessing by a draft model beside plain decoding: where it pays, and where it cannot.

The same SmolLM2 in Q4_1, which takes a fraction of the time of float32, guesses what that will say. It
guesses what it says itself, too, which costs as much as it gives: then nothing is to be lost.
"""

from __future__ import annotations

from bench.report import Report
from bench.speculate import TASKS, Match, compare
from bench.workers import Crew

__all__ = ["REPEATS", "run"]

REPEATS = 3
MATCHES = [Match("draft", model, "draft:q4_1", TASKS, {}) for model in ("f32", "q4_1")]


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Guesses by SmolLM2 in Q4_1."""
    return compare(crew, "Guessing by a draft model, SmolLM2 Q4_1", MATCHES, threads, repeats)
