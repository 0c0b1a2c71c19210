"""Tags in what an answer has written: which tokens may not complete one, and whether one has just been."""

from __future__ import annotations

from typing import Literal, NamedTuple

from mohist.chat.guides.vocabulary import MOST_NEWLINES, Vocabulary

__all__ = ["Tag", "Tail"]


class Tag(NamedTuple):
    """A text that means something to the parser of answers."""

    text: bytes
    ends: Literal["in it", "after it"]
    """What a token may not do: complete the tag at all, or go on after it with anything but newlines."""


class Tail:
    """The end of an answer, as long as it can be part of a tag."""

    def __init__(self, vocabulary: Vocabulary, longest: int) -> None:
        self._vocabulary = vocabulary
        self._longest = longest
        self._bytes = b""

    def push(self, token: int) -> None:
        """The answer goes on with `token`."""
        self._bytes = (self._bytes + self._vocabulary.texts[token])[-self._longest - MOST_NEWLINES :]

    def forbidden(self, tags: tuple[Tag, ...]) -> int:
        """Tokens, as bits, that would do with one of `tags` what they may not."""
        bits = 0
        for tag in tags:
            for known in range(len(tag.text)):
                if self._bytes.endswith(tag.text[:known]):
                    bits |= self._vocabulary.completing(tag.text, known, tag.ends)
        return bits

    def ends_with(self, tag: bytes) -> bool:
        """Whether `tag` was just completed, newlines after it aside."""
        return any(self._bytes.endswith(tag + b"\n" * count) for count in range(MOST_NEWLINES + 1))
