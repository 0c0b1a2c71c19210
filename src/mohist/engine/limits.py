"""From what callers ask to sequences, or an error that says what does not fit."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mohist.engine.sequence import Sequence
from mohist.errors import RequestError
from mohist.types import Request, SamplingParams

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sequence must fit into. Makes sequences of what callers give, or raises RequestError."""

    vocab_size: int
    max_positions: int
    cache_tokens: int
    """Positions in the whole cache: each sequence must be able to run alone."""

    def samples(
        self,
        ids: Iterator[int],
        prompt: Iterable[int] | Request,
        params: SamplingParams | None,
        num_samples: int,
        salt: bytes,
    ) -> list[Sequence]:
        """`num_samples` answers to one prompt; a Request has its own params and first sample index."""
        first_sample = 0
        if isinstance(prompt, Request):
            if params is not None:
                raise RequestError("params beside a Request, which has its own: give only one of them")
            prompt, params, first_sample = prompt.prompt, prompt.params, prompt.sample
        params = params or SamplingParams()
        if num_samples < 1:
            raise RequestError(f"num_samples = {num_samples}: it must be at least 1")
        tokens = self._checked(prompt, salt)
        if len(tokens) >= self.max_positions:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens and the model's context {self.max_positions}: "
                f"shorten it to at most {self.max_positions - 1} tokens, to leave room for an answer"
            )
        max_length = min(len(tokens) + params.max_tokens, self.max_positions)
        self._check_fits(max_length - 1, "shorten the prompt, lower max_tokens or enlarge the cache")
        samples = range(first_sample, first_sample + num_samples)
        return [
            Sequence(id=next(ids), prompt=tokens, params=params, sample=i, salt=salt, max_length=max_length)
            for i in samples
        ]

    def text(
        self, ids: Iterator[int], tokens: Iterable[int], start: int, salt: bytes, top_logprobs: int = 0
    ) -> Sequence:
        """A text whose tokens from index `start` on are to be scored, beside the likeliest in their place."""
        text = self._checked(tokens, salt)
        length = len(text)
        if not 1 <= start < length:
            raise RequestError(
                f"start = {start} for a text of {length} tokens: it must be at least 1, since the first "
                f"token has no prefix, and less than the number of tokens"
            )
        if length > self.max_positions:
            raise RequestError(
                f"the text has {length} tokens and the model's context {self.max_positions}: shorten it"
            )
        self._check_fits(length - 1, "shorten the text or enlarge the cache")
        params = SamplingParams(top_logprobs=top_logprobs)
        return Sequence(
            id=next(ids), prompt=text, params=params, salt=salt, max_length=length, score_start=start
        )

    def _checked(self, tokens: Iterable[int], salt: bytes) -> tuple[int, ...]:
        if not isinstance(salt, bytes):
            raise RequestError(f"salt = {salt!r}: it must be bytes")
        try:
            checked = tuple(map(operator.index, tokens))
        except TypeError as error:
            raise RequestError(f"tokens must be a list of token ids: {error}") from error
        if not checked:
            raise RequestError("no tokens: give at least one, such as the model's bos token")
        if min(checked) < 0 or max(checked) >= self.vocab_size:
            index, token = next((i, t) for i, t in enumerate(checked) if not 0 <= t < self.vocab_size)
            raise RequestError(
                f"token {token} at index {index} is outside the vocabulary 0..{self.vocab_size - 1}: "
                f"use the tokenizer of this model"
            )
        return checked

    def _check_fits(self, num_rows: int, fix: str) -> None:
        if num_rows > self.cache_tokens:
            raise RequestError(
                f"a sequence of up to {num_rows} tokens does not fit into the cache, which holds "
                f"{self.cache_tokens}: {fix}"
            )
