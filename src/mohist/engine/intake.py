"""From what callers ask to sequences, or an error that says what does not fit."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import count

from mohist.engine.blocks import adapted_salt
from mohist.engine.guiding import allowed_bits
from mohist.engine.interface import Runner
from mohist.engine.sequence import Sequence
from mohist.errors import RequestError
from mohist.types import Request, SamplingParams

__all__ = ["Intake"]


class Intake:
    """Makes sequences, with ids that grow, of what callers ask; raises RequestError for what does not fit."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        # Each sequence must be able to run alone in the whole cache.
        self._cache_tokens = runner.num_blocks * runner.block_size
        self._ids = count()

    @property
    def capacity(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        # The last token of an answer needs no place in the cache.
        return min(self._runner.max_positions, self._cache_tokens + 1)

    def samples(
        self, prompt: Iterable[int] | Request, params: SamplingParams | None, num_samples: int, salt: bytes
    ) -> list[Sequence]:
        """`num_samples` answers to one prompt; a Request has its own params and first sample index.

        Raises what a new guide raises, too.
        """
        request, first_sample = None, 0
        if isinstance(prompt, Request):
            if params is not None:
                raise RequestError("params beside a Request, which has its own: give only one of them")
            request, first_sample = prompt, prompt.sample
            prompt, params = request.prompt, request.params
        params = params or SamplingParams()
        if num_samples < 1:
            raise RequestError(f"num_samples = {num_samples}: it must be at least 1")
        tokens = self._checked(prompt, salt)
        context = self._runner.max_positions
        if len(tokens) >= context:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens and the model's context {context}: "
                f"shorten it to at most {context - 1} tokens, to leave room for an answer"
            )
        max_length = min(len(tokens) + params.max_tokens, context)
        self._check_fits(max_length - 1, "shorten the prompt, lower max_tokens or enlarge the cache")
        sequences = [
            Sequence(
                id=next(self._ids), prompt=tokens, params=params, sample=i, salt=salt, max_length=max_length
            )
            for i in range(first_sample, first_sample + num_samples)
        ]
        for sequence in sequences:
            self._guide(sequence, request)
            self._adapt(sequence, None if request is None else request.adapter)
        return sequences

    def text(
        self,
        tokens: Iterable[int],
        start: int,
        salt: bytes,
        adapter: str | None = None,
        top_logprobs: int = 0,
    ) -> Sequence:
        """A text whose tokens from index `start` on are to be scored, beside the likeliest in their place."""
        text = self._checked(tokens, salt)
        length = len(text)
        if not 1 <= start < length:
            raise RequestError(
                f"start = {start} for a text of {length} tokens: it must be at least 1, since the first "
                f"token has no prefix, and less than the number of tokens"
            )
        context = self._runner.max_positions
        if length > context:
            raise RequestError(f"the text has {length} tokens and the model's context {context}: shorten it")
        self._check_fits(length - 1, "shorten the text or enlarge the cache")
        params = SamplingParams(top_logprobs=top_logprobs)
        sequence = Sequence(
            id=next(self._ids), prompt=text, params=params, salt=salt, max_length=length, score_start=start
        )
        self._adapt(sequence, adapter)
        return sequence

    def _guide(self, sequence: Sequence, request: Request | None) -> None:
        """Give the sequence a guide of its own, if the request has any."""
        if request is not None and request.guide is not None:
            sequence.guide = request.guide()
            sequence.allowed = allowed_bits(sequence.guide, self._runner.vocab_size)

    def _adapt(self, sequence: Sequence, adapter: str | None) -> None:
        """Have the sequence computed with an adapter, its cached blocks kept apart from those of others."""
        if adapter is not None:
            keys = self._runner.adapter_keys
            if adapter not in keys:
                raise RequestError(f"adapter = {adapter!r}: there are {', '.join(sorted(keys)) or 'none'}")
            sequence.adapter = adapter
            sequence.salt = adapted_salt(sequence.salt, keys[adapter])

    def _checked(self, tokens: Iterable[int], salt: bytes) -> tuple[int, ...]:
        if not isinstance(salt, bytes):
            raise RequestError(f"salt = {salt!r}: it must be bytes")
        try:
            checked = tuple(map(operator.index, tokens))
        except TypeError as error:
            raise RequestError(f"tokens must be a list of token ids: {error}") from error
        if not checked:
            raise RequestError("no tokens: give at least one, such as the model's bos token")
        size = self._runner.vocab_size
        if min(checked) < 0 or max(checked) >= size:
            index, token = next((i, t) for i, t in enumerate(checked) if not 0 <= t < size)
            raise RequestError(
                f"token {token} at index {index} is outside the vocabulary 0..{size - 1}: "
                f"use the tokenizer of this model"
            )
        return checked

    def _check_fits(self, num_rows: int, fix: str) -> None:
        if num_rows > self._cache_tokens:
            raise RequestError(
                f"a sequence of up to {num_rows} tokens does not fit into the cache, which holds "
                f"{self._cache_tokens}: {fix}"
            )
