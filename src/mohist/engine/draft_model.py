"""Guesses by a smaller model of the same vocabulary, with a cache of its own.

For each sequence the draft model has a *shadow*: the same tokens, then guesses, computed like any sequence.
Guesses are drawn as the sequence would draw them, by the noise of their positions, so that two models that
agree on a distribution agree on the token.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from weakref import WeakKeyDictionary

from mohist.engine.blocks import BlockManager
from mohist.engine.mtp import without_penalties
from mohist.engine.runner import DecoderRunner
from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.errors import ConfigError

__all__ = ["DraftModel"]

CHUNK = 512
"""Rows that are computed at a time when a shadow has to catch up."""


class DraftModel:
    """A `Drafter` that runs another decoder."""

    def __init__(self, runner: DecoderRunner, *, vocab_size: int) -> None:
        """`vocab_size` is that of the model that is guessed. Raises ConfigError, if the draft's differs."""
        if runner.vocab_size != vocab_size:
            raise ConfigError(
                f"the draft model has {runner.vocab_size} tokens and the model {vocab_size}: "
                f"choose a draft model with the same tokenizer"
            )
        self._runner = runner
        self._blocks = BlockManager(runner.num_blocks, runner.block_size)
        self._shadows: WeakKeyDictionary[Sequence, _Shadow] = WeakKeyDictionary()

    def backlog(self, sequence: Sequence) -> int:
        """See `Drafter`."""
        shadow = self._shadows.get(sequence)
        return len(sequence.tokens) - (shadow.num_agreed(sequence.tokens) if shadow else 0)

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome]) -> None:
        """See `Drafter`: nothing is learned from a step of the other model."""

    def propose(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[list[int]]:
        """See `Drafter`. Where the draft cache is full, or the draft model's context, nothing is guessed."""
        guesses: list[list[int]] = [[] for _ in sequences]
        going_on: list[tuple[_Shadow, list[int], int]] = []
        for sequence, found, count in zip(sequences, guesses, counts, strict=True):
            shadow = self._caught_up(sequence, count) if count else None
            if shadow is not None:
                going_on.append((shadow, found, count))
        while going_on:
            outcomes = self._runner.run([shadow.last_chunk() for shadow, *_ in going_on])
            for (shadow, found, _), outcome in zip(going_on, outcomes, strict=True):
                found.append(outcome.draws[0].token)
                shadow.append(found[-1])
            going_on = [entry for entry in going_on if len(entry[1]) < entry[2]]
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self._blocks.release(shadow.sequence.blocks)

    def rest(self, rests: bool) -> None:
        """See `Drafter`: a shadow catches up later."""

    def _caught_up(self, sequence: Sequence, count: int) -> _Shadow | None:
        """The sequence's shadow with all rows but the last computed, and blocks for `count` guesses."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            shadow = self._shadows[sequence] = _Shadow(sequence)
        num_rows = len(sequence.tokens) + count - 1
        blocks = shadow.sequence.blocks
        needed = self._blocks.num_blocks_for(num_rows) - len(blocks)
        if needed > self._blocks.num_available or num_rows >= self._runner.max_positions:
            return None
        blocks += [self._blocks.take() for _ in range(needed)]
        shadow.follow(sequence.tokens)
        while chunk := shadow.next_chunk():
            self._runner.run([chunk])
            shadow.num_computed = chunk.end
        return shadow


class _Shadow:
    """What the draft model has of one sequence."""

    def __init__(self, of: Sequence) -> None:
        self.sequence = Sequence(
            id=of.id,
            prompt=of.prompt,
            params=without_penalties(of.params),
            sample=of.sample,
            max_length=of.max_length,
        )
        self.num_computed = 0
        self._num_known = 0
        """Leading tokens that are known to be the sequence's."""

    def num_agreed(self, tokens: Seq[int]) -> int:
        """Leading rows of the shadow's cache that are right for a sequence with these tokens."""
        own = self.sequence.tokens
        agreed = min(self._num_known, len(own))
        while agreed < min(len(own), len(tokens)) and own[agreed] == tokens[agreed]:
            agreed += 1
        return min(agreed, self.num_computed)

    def follow(self, tokens: Seq[int]) -> None:
        """Say what the sequence says now."""
        # the last row is computed again if need be: it is the one that is drawn from
        self.num_computed = min(self.num_agreed(tokens), len(tokens) - 1)
        self._num_known = len(tokens)
        self.sequence.tokens[:] = tokens

    def next_chunk(self) -> Chunk | None:
        """The next rows before the last one that are not computed."""
        end = min(self.num_computed + CHUNK, len(self.sequence.tokens) - 1)
        if end == self.num_computed:
            return None
        return Chunk(self.sequence, self.num_computed, end, draws=False, scores=False)

    def last_chunk(self) -> Chunk:
        """The last row, to draw a guess from."""
        end = len(self.sequence.tokens)
        return Chunk(self.sequence, end - 1, end, draws=True, scores=False)

    def append(self, guess: int) -> None:
        """Its last row is computed, and this was drawn."""
        self.num_computed = len(self.sequence.tokens)
        self.sequence.tokens.append(guess)
