"""Fill in the middle: what a code model was trained to put between a prefix and a suffix."""

from __future__ import annotations

from typing import NamedTuple

from mohist.chat.tokenizer import Tokenizer
from mohist.serve.errors import unavailable

__all__ = ["fill_in"]


class _Marks(NamedTuple):
    """Texts of tokens: the prompt is `before` prefix `between` suffix `after`."""

    before: str
    between: str
    after: str
    ends: tuple[str, ...]
    """Texts of tokens that end what is filled in, beside those that end every answer."""


_KNOWN = (
    _Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ()),  # DeepSeek
    _Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|fim_pad|>", "<|file_sep|>")),  # Qwen
    _Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<file_sep>")),  # StarCoder
)


def fill_in(tokenizer: Tokenizer, prefix: str, suffix: str) -> tuple[list[int], tuple[int, ...]]:
    """The prompt that asks for what belongs between, and the tokens that end it. Raises ApiError."""
    for marks in _KNOWN:
        tokens = [tokenizer.token(text) for text in marks[:3]]
        if None not in tokens:
            before, between, after = (token for token in tokens if token is not None)
            start = [tokenizer.bos_token] if tokenizer.adds_bos and tokenizer.bos_token is not None else []
            prompt = tokenizer.encode_pieces([*start, before, prefix, between, suffix, after])
            ends = [tokenizer.token(text) for text in marks.ends]
            return prompt, tuple(token for token in ends if token is not None)
    raise unavailable("a suffix: this model was not trained to fill in the middle, so it", "suffix")
