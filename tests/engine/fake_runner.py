"""A model that is a hash of the prefix, over a cache that remembers what was written where.

It stands in for `DecoderRunner`, and is strict where a real model would silently compute nonsense: every row
reads all positions before it through the block table, and each must hold just the token, position, prefix,
tenant and weights that the sequence means it to hold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import lru_cache, reduce
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from mohist.engine.sequence import Chunk, Draw, Outcome, Sequence
from mohist.types import Completion, FinishReason, SamplingParams, Usage


@lru_cache(2**16)
def digest(*parts: object) -> bytes:
    return blake2b(repr(parts).encode(), digest_size=12).digest()


def start_digest(weights: int) -> bytes:
    return digest("weights", weights)


def prefix_digest(tokens: Iterable[int], weights: int) -> bytes:
    """Stands for the state of a model that has read these tokens."""
    return reduce(digest, tokens, start_digest(weights))


def logprob(prefix: bytes, token: int) -> float:
    return -int.from_bytes(digest(prefix, token)[:6]) / 2**40


def draw(
    prefix: bytes,
    params: SamplingParams,
    sample: int,
    position: int,
    vocab_size: int,
    allowed: bytes | None = None,
) -> Draw:
    noise = digest(prefix, params.seed, sample, position, params.temperature)
    tokens = [i for i in range(vocab_size) if allowed is None or allowed[i // 8] >> i % 8 & 1]
    if not tokens:
        return Draw(-1, -math.inf, -math.inf)
    token = tokens[int.from_bytes(noise[:4]) % len(tokens)]
    raw = logprob(prefix, token)
    return Draw(token, raw, raw * 2, ((token, raw),) if params.top_logprobs else ())


def answer_alone(
    prompt: list[int], params: SamplingParams, sample: int, runner: FakeRunner
) -> tuple[list[Draw], FinishReason]:
    """The definition: one token after another, nothing cached, nobody else about."""
    tokens = list(prompt)
    draws: list[Draw] = []
    while True:
        prefix = prefix_digest(tokens, runner.weights)
        draws.append(draw(prefix, params, sample, len(tokens), runner.vocab_size))
        tokens.append(draws[-1].token)
        if tokens[-1] in params.stop_tokens:
            return draws, "stop"
        if len(draws) == params.max_tokens or len(tokens) == runner.max_positions:
            return draws, "length"


def completion_of(draws: list[Draw], reason: FinishReason, prompt: list[int], usage: Usage) -> Completion:
    """The answer that consists of these draws; what was cached and guessed is as `usage` says."""
    return Completion(
        tokens=tuple(d.token for d in draws),
        logprobs=tuple(d.logprob for d in draws),
        sampled_logprobs=tuple(d.sampled_logprob for d in draws),
        top_logprobs=tuple(d.top for d in draws),
        finish_reason=reason,
        usage=replace(usage, prompt_tokens=len(prompt), completion_tokens=len(draws)),
    )


def scores_alone(tokens: list[int], start: int, *, weights: int) -> tuple[float, ...]:
    return tuple(logprob(prefix_digest(tokens[:p], weights), tokens[p]) for p in range(start, len(tokens)))


class Slot(NamedTuple):
    """What one position of a block holds: keys and values, which depend on all tokens up to there."""

    position: int
    prefix: bytes
    salt: bytes


def guessed_text(chunk: Chunk) -> list[int]:
    """What the sequence says if the guesses of the chunk are right."""
    return [*chunk.sequence.tokens, *chunk.drafts]


class RunnerFailure(Exception):
    pass


class FakeRunner:
    def __init__(
        self, *, block_size: int = 4, num_blocks: int = 64, max_positions: int = 64, vocab_size: int = 7
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.max_positions = max_positions
        self.vocab_size = vocab_size
        self.adapter_keys: dict[str, bytes] = {}
        self.rewinds = True
        self.weights = 0
        self.weights_told = 0
        self.slots: list[Slot | None] = [None] * (num_blocks * block_size)
        self.steps: list[list[Chunk]] = []
        self.rows_before_failure: int | None = None

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        assert chunks
        assert self.weights == self.weights_told, "the weights changed and nobody said so"
        assert len({chunk.sequence for chunk in chunks}) == len(chunks)
        self.steps.append(chunks)
        written: set[int] = set()
        outcomes = [self._run_chunk(chunk, written) for chunk in chunks]
        for chunk in chunks:  # a layer may store the rows of all chunks first: nothing read was overwritten
            self._read(chunk.sequence, guessed_text(chunk), chunk.start + chunk.num_rows)
        return outcomes

    def add_adapter(self, name: str, folder: Path) -> None:
        self.adapter_keys[name] = bytes(folder)

    def remove_adapter(self, name: str) -> None:
        del self.adapter_keys[name]

    def weights_changed(self) -> None:
        self.weights_told += 1

    def fail_after(self, num_rows: int) -> None:
        """Let the next `run` raise after it has written some rows."""
        self.rows_before_failure = num_rows

    def rows_of(self, id: int) -> list[int]:
        """All rows that were computed for a sequence, in order."""
        return [
            row
            for chunks in self.steps
            for chunk in chunks
            if chunk.sequence.id == id
            for row in range(chunk.start, chunk.start + chunk.num_rows)
        ]

    def _run_chunk(self, chunk: Chunk, written: set[int]) -> Outcome:
        sequence, start, end, draws, scores, drafts = chunk
        assert 0 <= start < end <= len(sequence.tokens)
        assert end + len(drafts) <= min(self.max_positions, sequence.max_length) - draws
        assert not (draws and scores)
        assert draws or not drafts
        assert not draws or end == len(sequence.tokens)
        tokens = guessed_text(chunk)
        self._read(sequence, tokens, start)
        rows = self._expected(sequence, tokens)
        for row in range(start, start + chunk.num_rows):
            if self.rows_before_failure is not None:
                if self.rows_before_failure == 0:
                    self.rows_before_failure = None
                    raise RunnerFailure
                self.rows_before_failure -= 1
            slot = self._slot(sequence, row)
            assert slot not in written, f"slot {slot} is written twice in one step"
            written.add(slot)
            self.slots[slot] = rows[row]
        if scores:
            return Outcome(logprobs=scores_alone(sequence.tokens[: end + 1], start + 1, weights=self.weights))
        positions = range(end, end + chunk.num_draws)
        prefixes = [prefix_digest(tokens[:position], self.weights) for position in positions]
        params, sample = sequence.params, sequence.sample
        return Outcome(
            tuple(
                draw(x, params, sample, p, self.vocab_size, sequence.allowed)
                for x, p in zip(prefixes, positions, strict=True)
            )
        )

    def _read(self, sequence: Sequence, tokens: list[int], end: int) -> None:
        for row, expected in enumerate(self._expected(sequence, tokens)[:end]):
            found = self.slots[self._slot(sequence, row)]
            assert found == expected, f"row {row} of {sequence.id}: {found} is cached"

    def _expected(self, sequence: Sequence, tokens: list[int]) -> list[Slot]:
        prefixes = accumulate(tokens, digest, initial=start_digest(self.weights))
        return [Slot(row, prefix, sequence.salt) for row, prefix in enumerate(prefixes, start=-1)][1:]

    def _slot(self, sequence: Sequence, position: int) -> int:
        block = sequence.blocks[position // self.block_size]
        assert 0 <= block < self.num_blocks
        return block * self.block_size + position % self.block_size


class Guesses:
    """A `Speculation` that guesses as many tokens as it is allowed or fewer, many of them right."""

    def __init__(self, runner: FakeRunner, seed: int, skill: float) -> None:
        self.runner, self.random, self.skill = runner, random.Random(seed), skill
        self.forgotten: list[int] = []

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        assert spare > 0
        assert all(limit >= 0 for limit in limits)
        found = []
        for sequence, limit in zip(sequences, limits, strict=True):
            count = self.random.randint(0, min(limit, spare, 6))
            spare -= count
            found.append(self.guesses(sequence, count))
        return found

    def guesses(self, sequence: Sequence, count: int) -> list[int]:
        text, runner = list(sequence.tokens), self.runner
        for _ in range(count):
            state = prefix_digest(text, runner.weights)
            right = draw(state, sequence.params, sequence.sample, len(text), runner.vocab_size).token
            text.append(
                right if self.random.random() < self.skill else self.random.randrange(runner.vocab_size)
            )
        return text[len(sequence.tokens) :]

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        assert len(chunks) == len(outcomes)
        assert seconds >= 0

    def forget(self, sequence: Sequence) -> None:
        self.forgotten.append(sequence.id)
