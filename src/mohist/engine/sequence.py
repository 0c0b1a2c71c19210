"""The state of one request, and the small records that a step makes of it.

A sequence is a growing list of tokens. *Row* p of a sequence is the model's work at position p: it stores
the keys and values of `tokens[p]` in the cache and yields the distribution of `tokens[p + 1]`. So prefill,
decode and recompute after a preemption are one thing: compute the rows that are not in the cache yet.
The last token of an answer, and of a text that is only scored, needs no row.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mohist.types import Completion, FinishReason, Guide, SamplingParams, TopLogprobs, Usage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Chunk",
    "Draw",
    "Event",
    "FinishEvent",
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
