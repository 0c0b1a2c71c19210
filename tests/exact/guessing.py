"""Guessing without regard to what it costs, so that tests do not depend on time."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.engine.speculation import Drafter


class Always:
    """A `Speculation` that takes as many guesses of its drafter as it may, up to `most` a sequence."""

    def __init__(self, drafter: Drafter, most: int = 5) -> None:
        self.drafter, self.most = drafter, most

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        each = spare // len(sequences)
        return self.drafter.propose(sequences, [min(self.most, limit, each) for limit in limits])

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        self.drafter.observe(chunks, outcomes)

    def forget(self, sequence: Sequence) -> None:
        self.drafter.forget(sequence)


class OnAndOff(Always):
    """The same, but that it rests for a few steps every few steps."""

    STEPS = 6

    def __init__(self, drafter: Drafter, most: int = 5) -> None:
        super().__init__(drafter, most)
        self.num_steps, self.rests = 0, False

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        return [] if self.rests else super().guess(sequences, limits, spare)

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        if not self.rests:
            super().observe(chunks, outcomes, seconds)
        self.num_steps += 1
        if self.num_steps % self.STEPS == 0:
            self.rests = not self.rests
            self.drafter.rest(self.rests)
