"""Greedy answers to twenty questions, token by token beside the peers.

Two engines that round differently part where two tokens are nearly equally likely, and nowhere else. So where
two answers part, the gap between the two tokens is shown, in nats: by our logprobs, by the peer's, and, for
quantised weights, by their values in float32, which rounds next to nothing. What rounding does is measured
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

from bench.kquants import FORMATS as K_FORMATS
from bench.measure import progress
from bench.prompts import QUESTIONS
from bench.report import Report, table
from bench.workers import AS_F32, Crew, Worker

if TYPE_CHECKING:
    from bench.peers import Step

__all__ = ["FORMATS", "Comparison", "compare", "gap", "run"]

FORMATS = ("q4_1", *K_FORMATS)
"""Of SmolLM2's quantised files. Its rows are no whole super-blocks, so K-quants are mixtures there."""
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


@dataclass(frozen=True, slots=True)
class Pair:
    """Our answers to all questions beside a peer's."""

    name: str
    found: list[Comparison]
    exact_gaps: list[float]
    """Where two answers part: the gap between the two tokens by our weights in float32."""
    others: dict[str, list[Comparison]]
    """What else is compared: only how far the logprobs are apart is said of it."""


def run(files: dict[str, str], threads: int) -> Report:
    """Mohist beside llama.cpp on quantised files, and beside transformers in float32."""
    with Crew(files) as crew:
        exact = crew.worker("Mohist", "f32", threads)
        asked = Asked([exact.call("render", question) for question in QUESTIONS], exact.call("stop_tokens"))
        pairs = [asked.dense(exact, crew.worker("transformers", "f32", threads))]
    for format in FORMATS:
        with Crew(files) as crew:
            engines = ("Mohist", format), ("llama.cpp", format), ("Mohist", format + AS_F32)
            pairs.append(asked.quantised(*(crew.worker(*engine, threads) for engine in engines)))
    tables = [agreement_table(pair.name, pair.found, pair.exact_gaps) for pair in pairs]
    compared: dict[str, list[Comparison]] = {}
    for pair in pairs:
        compared |= {pair.name: pair.found} | pair.others
    return Report(
        title=f"Greedy answers of {NEW_TOKENS} tokens to {len(QUESTIONS)} questions",
        tables=[*tables, distance_table(compared)],
        notes=[
            *(f"{pair.name}: {summary(pair.found)}" for pair in pairs),
            f"Distances: of the logprobs of the {LIKELIEST} likeliest tokens, on text that both read.",
        ],
        data={
            pair.name: {"answers": list(map(as_row, pair.found)), "exact_gaps": pair.exact_gaps}
            for pair in pairs
        },
        failed=any(num_wide(pair.found) for pair in pairs),
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions as prompts, and what ends an answer."""

    prompts: list[list[int]]
    stop_tokens: tuple[int, ...]

    def dense(self, exact: Worker, peer: Worker) -> Pair:
        """Two engines in float32."""
        found = self._compared(self._answers(exact), self._answers(peer))
        return Pair(beside(exact, peer), found, [one.gap for one in found], {})

    def quantised(self, ours: Worker, peer: Worker, exact: Worker) -> Pair:
        """Two engines on one quantised file; `exact` has its values in float32."""
        mine, theirs, reference = map(self._answers, (ours, peer, exact))
        found = self._compared(mine, theirs)
        gaps = [exact_gap(exact, *answers) for answers in zip(self.prompts, mine, theirs, found, strict=True)]
        others = {
            beside(ours, exact): self._compared(mine, reference),
            beside(peer, exact): self._compared(theirs, reference),
        }
        return Pair(beside(ours, peer), found, gaps, others)

    def _answers(self, worker: Worker) -> list[list[Step]]:
        progress(f"  answers of {worker.spec.name}")
        return [worker.call("greedy", prompt, NEW_TOKENS) for prompt in self.prompts]

    def _compared(self, some: list[list[Step]], others: list[list[Step]]) -> list[Comparison]:
        return [compare(a, b, self.stop_tokens) for a, b in zip(some, others, strict=True)]


def beside(one: Worker, other: Worker) -> str:
    """The names of two engines."""
    return f"{one.spec.name} beside {other.spec.name}"


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
