"""Greedy answers to twenty questions, token by token beside the peers.

Two engines that round differently part where two tokens are nearly equally likely, and nowhere else. So where
two answers part, the gap between the two tokens is shown, in nats: by our logprobs, by the peer's, and, for
quantised weights, by the same model in float32, which rounds next to nothing. What rounding does is measured
beside it: how far the logprobs of two engines are apart as long as they read the same text. A near tie is a
gap below the distance that 99 % of these stay under.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from bench.measure import progress
from bench.prompts import QUESTIONS
from bench.report import Report, table
from bench.workers import Crew, Worker

if TYPE_CHECKING:
    from bench.peers import Step

__all__ = ["Comparison", "compare", "gap", "run"]

NEW_TOKENS = 48
LIKELIEST = 8
"""Tokens at a position whose logprobs are compared."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one question."""

    length: int
    """Tokens compared: up to our first stop token."""
    position: int | None
    """Where the answers part; None if they do not."""
    gap: float
    """There: our logprob of our token less that of the peer's."""
    their_gap: float
    """There: the peer's logprob of its token less that of ours."""
    distances: tuple[float, ...]
    """Differences between the engines' logprobs of the likeliest tokens, on the text that they share."""


def compare(ours: Sequence[Step], theirs: Sequence[Step], stop_tokens: Iterable[int]) -> Comparison:
    """Where and how widely two greedy answers part."""
    stop = set(stop_tokens)
    length = next((i + 1 for i, step in enumerate(ours) if step.token in stop), len(ours))
    distances: list[float] = []
    for i, (mine, other) in enumerate(zip(ours[:length], theirs[:length], strict=True)):
        known = dict(other.top)
        distances += [abs(x - known[token]) for token, x in mine.top[:LIKELIEST] if token in known]
        if mine.token != other.token:
            gaps = gap(mine, mine.token, other.token), gap(other, other.token, mine.token)
            return Comparison(length, i, *gaps, tuple(distances))
    return Comparison(length, None, 0.0, 0.0, tuple(distances))


def gap(step: Step, token: int, other: int) -> float:
    """Logprob of a token less that of another; infinite if only the first is among the likeliest."""
    logprobs = dict(step.top)
    return logprobs.get(token, -math.inf) - logprobs[other] if other in logprobs else math.inf


def run(crew: Crew, threads: int) -> Report:
    """Mohist beside llama.cpp on the Q4_1 file, and beside transformers in float32."""
    exact = crew.worker("Mohist", "f32", threads)
    prompts = [exact.call("render", question) for question in QUESTIONS]
    stop = exact.call("stop_tokens")

    def answers(engine: str, format: str) -> list[list[Step]]:
        progress(f"  answers of {engine}, {format}")
        worker = crew.worker(engine, format, threads)
        return [worker.call("greedy", prompt, NEW_TOKENS) for prompt in prompts]

    def compared(some: list[list[Step]], others: list[list[Step]]) -> list[Comparison]:
        return [compare(a, b, stop) for a, b in zip(some, others, strict=True)]

    reference, ours = answers("Mohist", "f32"), answers("Mohist", "q4_1")
    llama, transformers = answers("llama.cpp", "q4_1"), answers("transformers", "f32")
    quantised, plain = compared(ours, llama), compared(reference, transformers)
    exact_gaps = [
        exact_gap(exact, prompt, mine, other, one)
        for prompt, mine, other, one in zip(prompts, ours, llama, quantised, strict=True)
    ]
    return Report(
        title=f"Greedy answers of {NEW_TOKENS} tokens to {len(QUESTIONS)} questions",
        tables=[
            agreement_table("Mohist Q4_1 beside llama.cpp Q4_1", quantised, exact_gaps),
            agreement_table("Mohist f32 beside transformers f32", plain, [one.gap for one in plain]),
            distance_table(
                {
                    "Mohist Q4_1, llama.cpp Q4_1": quantised,
                    "Mohist Q4_1, Mohist f32": compared(ours, reference),
                    "llama.cpp Q4_1, Mohist f32": compared(llama, reference),
                    "Mohist f32, transformers f32": plain,
                }
            ),
        ],
        notes=[
            f"Q4_1: {summary(quantised)}",
            f"f32: {summary(plain)}",
            f"Distances: of the logprobs of the {LIKELIEST} likeliest tokens, on text that both read.",
        ],
        data={
            "Q4_1": list(map(as_row, quantised)),
            "exact_gaps": exact_gaps,
            "f32": list(map(as_row, plain)),
        },
        failed=num_wide(quantised) + num_wide(plain) > 0,
    )


def exact_gap(
    exact: Worker, prompt: list[int], ours: Sequence[Step], theirs: Sequence[Step], one: Comparison
) -> float:
    """The gap between the two tokens where two answers part, by the float32 model."""
    if one.position is None:
        return 0.0
    shared = [step.token for step in ours[: one.position]]
    (step,) = exact.call("greedy", prompt + shared, 1)
    return gap(step, ours[one.position].token, theirs[one.position].token)


def rounding(found: Iterable[Comparison]) -> float:
    """Nats that 99 % of the distances between two engines' logprobs on the same text stay below."""
    values = list(chain.from_iterable(one.distances for one in found))
    return statistics.quantiles(values, n=100)[-1]


def num_wide(found: Sequence[Comparison]) -> int:
    """Answers that part where there is no near tie."""
    limit = rounding(found)
    return sum(one.position is not None and one.gap > limit for one in found)


def summary(found: Sequence[Comparison]) -> str:
    """Counts of equal and of parting answers."""
    same, wide = sum(one.position is None for one in found), num_wide(found)
    return (
        f"{same} of {len(found)} answers are equal, {len(found) - same - wide} part at a near tie (a gap of "
        f"at most {rounding(found):.2g} nats by our logprobs), {wide} elsewhere."
    )


def agreement_table(title: str, found: Sequence[Comparison], exact_gaps: Sequence[float]) -> str:
    """A row for each question; the gap in float32 is negative where float32 prefers the peer's token."""
    rows, limit = [], rounding(found)
    for question, one, exact in zip(QUESTIONS, found, exact_gaps, strict=True):
        if one.position is None:
            rows.append([shown(question), f"equal, {one.length} tokens", "", "", ""])
            continue
        kind = "near tie" if one.gap <= limit else "**wide gap**"
        verdict = f"{kind} at token {one.position + 1} of {one.length}"
        rows.append([shown(question), verdict, f"{one.gap:.2g}", f"{one.their_gap:.2g}", f"{exact:.2g}"])
    return table([title, "", "gap, ours", "gap, theirs", "gap in f32"], rows)


def distance_table(pairs: dict[str, list[Comparison]]) -> str:
    """How far the logprobs of two engines are apart."""
    rows = []
    for name, found in pairs.items():
        values = list(chain.from_iterable(one.distances for one in found))
        figures = statistics.mean(values), rounding(found), max(values)
        rows.append([name, *(f"{figure:.2g}" for figure in figures)])
    return table(["distance of logprobs, nats", "mean", "99 % below", "most"], rows)


def as_row(one: Comparison) -> dict[str, float | int | None]:
    """A comparison for --json."""
    return {
        "length": one.length,
        "position": one.position,
        "gap": one.gap,
        "their_gap": one.their_gap,
        "distance": max(one.distances),
    }


def shown(question: str) -> str:
    """A question short enough for a table, on one line."""
    line = " ".join(question.replace("|", " ").split())
    return line if len(line) <= 40 else line[:39] + "…"
