"""A model's tokens as grammars see them: bytes that text may be made of, and markup that text never is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

__all__ = ["MOST_NEWLINES", "Vocabulary", "as_bits"]

MOST_NEWLINES = 8
"""Newlines that a token may write after a tag: they belong to nothing."""


def as_bits(tokens: list[int]) -> int:
    """A set of tokens as a number whose bit i says whether token i is in it."""
    bits = bytearray(max(tokens, default=0) // 8 + 1)
    for token in tokens:
        bits[token // 8] |= 1 << token % 8
    return int.from_bytes(bits, "little")


class Vocabulary:
    """The tokens of one model. `size` is that of its logits, which may be padded. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self._completing: dict[tuple[bytes, int, str], int] = {}

    @cached_property
    def texts(self) -> list[bytes]:
        """What each token spells; nothing for padding."""
        return [self.tokenizer.token_bytes(token) for token in range(self.size)]

    @cached_property
    def every(self) -> int:
        """All tokens but padding, as bits."""
        return as_bits([token for token, text in enumerate(self.texts) if text])

    @cached_property
    def markup(self) -> int:
        """Markup tokens, as bits."""
        return as_bits(list(self.tokenizer.markup))

    @cached_property
    def end(self) -> int:
        """A token that ends answers, for llguidance to mark complete ones with. Raises RequestError."""
        if not self.tokenizer.stop_tokens:
            raise RequestError("this model has no token that ends an answer, so its form cannot be kept")
        return self.tokenizer.stop_tokens[0]

    @cached_property
    def grammars(self) -> LLTokenizer:
        """What llguidance compiles grammars against. Made once, in a second or two. Raises RequestError."""
        try:
            import llguidance
        except ImportError as error:
            raise RequestError(
                "answers in a given form need llguidance: pip install 'mohist[serve]'"
            ) from error
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self)), n_vocab=self.size)

    def completing(self, tag: bytes, known: int, ends: Literal["in it", "after it"]) -> int:
        """Tokens, as bits, that complete `tag` after text that ends with its first `known` bytes.

        "in it": all of them; "after it": those that go on with anything but `MOST_NEWLINES` newlines.
        """
        key = tag, known, ends
        if key not in self._completing:
            self._completing[key] = as_bits(list(self._that_complete(tag, known, ends)))
        return self._completing[key]

    @cached_property
    def _joined(self) -> tuple[bytes, list[int]]:
        """All texts, one after another, and where each begins, with the end of the last."""
        return b"".join(self.texts), list(accumulate(map(len, self.texts), initial=0))

    def _that_complete(self, tag: bytes, known: int, ends: str) -> Iterator[int]:
        texts, begins = self._joined
        rest = tag[known:]
        place = texts.find(rest)
        while place >= 0:
            token = bisect_right(begins, place) - 1
            after = texts[place + len(rest) : begins[token + 1]]
            fits = place + len(rest) <= begins[token + 1] and (not known or place == begins[token])
            if fits and (ends == "in it" or after != b"\n" * min(len(after), MOST_NEWLINES)):
                yield token
            place = texts.find(rest, place + 1)


class _Tokens:
    """What llguidance asks a tokenizer for."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        markup = vocabulary.tokenizer.markup
        # Padding needs names too: tokens without any are taken for one another.
        self.tokens = [text or b"<padding %d>" % token for token, text in enumerate(vocabulary.texts)]
        self.special_token_ids = [t for t, text in enumerate(vocabulary.texts) if not text or t in markup]
        self.eos_token_id = vocabulary.end
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        """Called once, with a word to see whether bytes are taken: grammars with no_forcing do not encode."""
        raise NotImplementedError
