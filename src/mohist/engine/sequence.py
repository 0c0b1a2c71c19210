"""The state of one request, what it must fit into, and the small records that a step makes of it.

A sequence is a growing list of tokens. *Row* p of a sequence is the model's work at position p: it stores
the keys and values of `tokens[p]` in the cache and yields the distribution of `tokens[p + 1]`. So prefill,
decode and recompute after a preemption are one thing: compute the rows that are not in the cache yet.
The last token of an answer, and of a text that is only scored, needs no row.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mohist.errors import RequestError
from mohist.types import Completion, FinishReason, Guide, Request, SamplingParams, TopLogprobs, Usage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Chunk",
    "Draw",
    "Event",
    "FinishEvent",
    "Limits",
    "Outcome",
    "ScoreEvent",
    "Sequence",
    "Status",
    "TokenEvent",
]


class Draw(NamedTuple):
    """A token drawn for one position: a function of logits, params, seed, sample, position, allowed alone."""

    token: int
    """-1 where no token was allowed."""
    logprob: float
    """Raw: under the model's own distribution."""
    sampled_logprob: float
    """Under the distribution that was sampled, after penalties, guide, temperature and truncation."""
    top: TopLogprobs = ()
    """The `params.top_logprobs` most likely tokens with their raw logprobs."""


class Status(enum.Enum):
    """Where a sequence stands. Only a running one holds blocks."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, weakref_slot=True, kw_only=True)
class Sequence:
    """One sample of one request, or one text to score. Compared, hashed and weakly held by identity."""

    id: int
    """Grows with arrival; the scheduler's order is by id."""
    prompt: tuple[int, ...]
    """What was given: the prompt, or the whole text to score."""
    params: SamplingParams
    sample: int = 0
    """Index among the samples of one prompt; enters the noise."""
    salt: bytes = b""
    """Sequences share cached blocks only with those of the same salt; an adapter's content is part of it."""
    adapter: str | None = None
    """Whose differences its rows are computed with."""
    max_length: int
    """Most tokens that prompt and answer may have together."""
    score_start: int | None = None
    """For a text to score: index of the first token whose logprob is wanted. None: tokens are drawn."""
    guide: Guide | None = None
    """Has seen all generated tokens."""

    tokens: list[int] = field(init=False)
    """Prompt, then generated tokens. Only ever appended to."""
    num_rows: int = field(init=False)
    """Rows to compute before the next draw, or in all for a text to score."""
    num_computed: int = 0
    """Rows, from position 0, whose keys and values are in the cache."""
    blocks: list[int] = field(default_factory=list)
    """The block table: position p lives in slot p % block_size of block `blocks[p // block_size]`."""
    keys: list[bytes] = field(default_factory=list)
    """Content keys of the leading full blocks, as far as they were needed."""
    draws: list[Draw] = field(default_factory=list)
    """One for each generated token."""
    allowed: bytes | None = None
    """What the guide lets be drawn next, as bits (see `SampleRow`); None: any token."""
    scores: list[float] = field(default_factory=list)
    """Raw logprobs of `tokens[score_start:]`, as far as they are known."""
    score_tops: list[TopLogprobs] = field(default_factory=list)
    """The likeliest tokens in place of each, where `params.top_logprobs` asks for them."""
    status: Status = Status.WAITING
    num_cached: int = 0
    """Rows that the prefix cache held when the sequence first ran."""
    num_preemptions: int = 0
    num_published: int = 0
    """Leading blocks of the table that the block manager was offered under their keys."""
    num_drafted: int = 0
    """Guesses that were computed for it (see `mohist.engine.speculation`)."""
    num_accepted: int = 0
    """Those of them that gave a token."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        self.num_rows = len(self.tokens) if self.score_start is None else len(self.tokens) - 1

    @property
    def generated(self) -> list[int]:
        """The tokens drawn so far (a copy)."""
        return self.tokens[len(self.prompt) :]

    @property
    def num_generated(self) -> int:
        """How many tokens were drawn so far; their first is `tokens[len(prompt)]`."""
        return len(self.draws)

    @property
    def num_left(self) -> int:
        """How many tokens the answer may still grow by."""
        return self.max_length - self.num_rows

    @property
    def first_output_row(self) -> int:
        """The first row whose distribution is still wanted; those before it may come from the cache."""
        if self.score_start is None:
            return self.num_rows - 1
        return self.score_start - 1 + len(self.scores)

    def append(self, draw: Draw) -> FinishReason | None:
        """Take the drawn token; say whether and why the answer ends with it."""
        self.tokens.append(draw.token)
        self.draws.append(draw)
        self.num_rows += 1
        if draw.token in self.params.stop_tokens:
            return "stop"
        return "length" if self.num_rows >= self.max_length else None

    def completion(self, reason: FinishReason, error: str = "") -> Completion:
        """The answer as it stands."""
        return Completion(
            tokens=tuple(self.generated),
            logprobs=tuple(draw.logprob for draw in self.draws),
            sampled_logprobs=tuple(draw.sampled_logprob for draw in self.draws),
            top_logprobs=tuple(draw.top for draw in self.draws),
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=len(self.prompt),
                cached_tokens=self.num_cached,
                completion_tokens=len(self.draws),
                drafted_tokens=self.num_drafted,
                accepted_tokens=self.num_accepted,
            ),
            error=error,
        )


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


class Chunk(NamedTuple):
    """Rows `start..end` of a sequence, to be computed in one step. A sequence has at most one a step."""

    sequence: Sequence
    start: int
    end: int
    draws: bool
    """Draw the next token, for position `end`, from the last row."""
    scores: bool
    """Report the raw logprob of the sequence's own next token at every row."""
    drafts: tuple[int, ...] = ()
    """Where it draws: guesses of the next tokens. Each has a further row, and a token is drawn there too."""

    @property
    def num_rows(self) -> int:
        """Rows to compute, those of guesses included."""
        return self.end - self.start + len(self.drafts)

    @property
    def tokens(self) -> list[int]:
        """The token of every row."""
        return [*self.sequence.tokens[self.start : self.end], *self.drafts]

    @property
    def num_draws(self) -> int:
        """How many of its last rows a token is drawn from."""
        return self.draws + len(self.drafts)


class Outcome(NamedTuple):
    """What the runner gives back for one chunk."""

    draws: tuple[Draw, ...] = ()
    """Where the chunk draws: a token for position `end`, and one after every guess as if it were right."""
    logprobs: tuple[float, ...] = ()
    """Entry i is the raw logprob of `tokens[start + i + 1]`, where the chunk scores."""
    hidden_TD: Tensor | None = None
    """Hidden states of all rows of the chunk, where the runner keeps them."""
    tops: tuple[TopLogprobs, ...] = ()
    """Entry i holds the likeliest tokens in its place, where the sequence's params ask for them."""


class TokenEvent(NamedTuple):
    """Request `id` drew a token."""

    id: int
    draw: Draw


class FinishEvent(NamedTuple):
    """Request `id` has its answer; no event of it follows."""

    id: int
    completion: Completion


class ScoreEvent(NamedTuple):
    """Text `id` is scored: the raw logprobs of its tokens from `start` on, or None if it was aborted."""

    id: int
    logprobs: tuple[float, ...] | None
    tops: tuple[TopLogprobs, ...] = ()
    """For each of them the likeliest tokens in its place, with raw logprobs, where they were asked for."""


Event = TokenEvent | FinishEvent | ScoreEvent
