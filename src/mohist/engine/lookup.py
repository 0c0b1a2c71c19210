"""Guesses by prompt lookup: what followed the last time that the sequence said what it says now.

Pays where an answer repeats its prompt or itself: quoting, rewriting, editing code, tables, loops.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from weakref import WeakKeyDictionary

from mohist.engine.sequence import Chunk, Outcome, Sequence

__all__ = ["PromptLookup"]

LENGTHS = (5, 3, 2)
"""Tokens that must agree, the longest tried first."""


class PromptLookup:
    """A `Drafter` that needs no model; its guesses take microseconds."""

    def __init__(self) -> None:
        self._places: WeakKeyDictionary[Sequence, _Places] = WeakKeyDictionary()

    def backlog(self, sequence: Sequence) -> int:
        """See `Drafter`: reading tokens costs next to nothing."""
        return 0

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome]) -> None:
        """See `Drafter`: tokens are all that it needs."""

    def propose(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[list[int]]:
        """See `Drafter`."""
        return [
            self._guesses(sequence, count) if count else []
            for sequence, count in zip(sequences, counts, strict=True)
        ]

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._places.pop(sequence, None)

    def rest(self, rests: bool) -> None:
        """See `Drafter`: what it missed, it reads later."""

    def _guesses(self, sequence: Sequence, count: int) -> list[int]:
        places = self._places.get(sequence)
        if places is None:
            places = self._places[sequence] = _Places()
        tokens = sequence.tokens
        place = places.find(tokens)
        if place is None:
            return []
        guesses = tokens[place : place + count]
        period = len(tokens) - place
        while len(guesses) < count:  # the repetition reaches the end: it is assumed to go on
            guesses.append(guesses[-period])
        return guesses


class _Places:
    """Where each run of so many tokens was followed by another one, the last time."""

    def __init__(self) -> None:
        self._followers: dict[tuple[int, ...], int] = {}
        """Index of the token that follows."""
        self._num_indexed = 0

    def find(self, tokens: Seq[int]) -> int | None:
        """Index of what followed the longest ending of `tokens` that occurred before."""
        followers = self._followers
        for place in range(self._num_indexed, len(tokens)):
            for length in LENGTHS:
                if place >= length:
                    followers[tuple(tokens[place - length : place])] = place
        self._num_indexed = len(tokens)
        for length in LENGTHS:
            place = followers.get(tuple(tokens[-length:])) if len(tokens) >= length else None
            if place is not None:
                return place
        return None
