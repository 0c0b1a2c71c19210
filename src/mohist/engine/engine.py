"""Tokens in, tokens and log-probabilities out, for many requests at once.

`submit` and `submit_score` line requests up, `step` moves the running ones ahead by one batch of rows and
returns what happened, `abort` takes one out. `generate`, `stream` and `score` drive the same steps until
their own requests have ended, and leave the events of other requests to whoever waits for them. One thread
at a time may use an engine.

An answer depends on nothing but weights, prompt, params, seed and sample index. All else here is
bookkeeping, and it never redraws a token: a preempted request goes on from the tokens it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from itertools import count, zip_longest
from pathlib import Path
from time import perf_counter

from mohist.engine.blocks import BlockManager, adapted_salt
from mohist.engine.guiding import NOTHING_ALLOWED, allowed_bits, guide_on
from mohist.engine.interface import EngineStats, Runner
from mohist.engine.limits import Limits
from mohist.engine.scheduler import EngineConfig, Scheduler
from mohist.engine.sequence import (
    Chunk,
    Draw,
    Event,
    FinishEvent,
    Outcome,
    ScoreEvent,
    Sequence,
    TokenEvent,
)
from mohist.engine.speculation import Speculation
from mohist.errors import ConfigError, RequestError
from mohist.types import Completion, Request, SamplingParams

__all__ = [
    "Engine",
    "EngineConfig",
    "EngineStats",
    "Event",
    "FinishEvent",
    "Runner",
    "ScoreEvent",
    "TokenEvent",
]


class Engine:
    """Continuous batching over one `Runner`; `clock` counts the seconds that `speculation` is told of."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig | None = None,
        speculation: Speculation | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.config = config or EngineConfig()
        if speculation is not None and not runner.rewinds:
            raise ConfigError(
                "speculation with a model of linear attention, whose states cannot be taken back when a "
                "guess was wrong: run it without"
            )
        self._runner, self._speculation, self._clock = runner, speculation, clock
        self._blocks = BlockManager(runner.num_blocks, runner.block_size)
        self._scheduler = Scheduler(self._blocks, self.config, speculation)
        self._limits = Limits(
            vocab_size=runner.vocab_size,
            max_positions=runner.max_positions,
            cache_tokens=runner.num_blocks * runner.block_size,
        )
        self._ids = count()
        self._unfinished: dict[int, Sequence] = {}
        self._events: list[Event] = []
        self._inboxes: dict[int, deque[Event]] = {}
        self._num_steps = self._num_computed = self._num_generated = 0
        self._num_drafted = self._num_accepted = 0

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to tell."""
        return bool(self._unfinished or self._events)

    @property
    def capacity(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        # The last token of an answer needs no place in the cache.
        return min(self._limits.max_positions, self._limits.cache_tokens + 1)

    def submit(
        self,
        prompt: Iterable[int] | Request,
        params: SamplingParams | None = None,
        *,
        num_samples: int = 1,
        salt: bytes = b"",
    ) -> list[int]:
        """Line up `num_samples` answers to one prompt; returns their ids, which their events carry.

        A `Request` has its own params, and its sample index is that of the first answer. Cached prefixes are
        shared only under the same `salt`. Raises RequestError, with nothing lined up, for an empty prompt,
        tokens outside the vocabulary, an answer that does not fit into context and cache, or an unknown
        adapter; and whatever a new guide raises.
        """
        return self._enqueue(self._samples(prompt, params, num_samples, salt))

    @property
    def adapter_keys(self) -> Mapping[str, bytes]:
        """A digest of the files of every adapter, by name."""
        return self._runner.adapter_keys

    def submit_score(
        self,
        tokens: Iterable[int],
        *,
        start: int = 1,
        salt: bytes = b"",
        adapter: str | None = None,
        top_logprobs: int = 0,
    ) -> int:
        """Line up a text whose tokens from index `start` on are to be scored; returns its id.

        `top_logprobs`: how many of the likeliest tokens to report for each of them.
        """
        sequence = self._limits.text(self._ids, tokens, start, salt, top_logprobs)
        return self._enqueue([self._adapted(sequence, adapter)])[0]

    def step(self) -> list[Event]:
        """Compute one batch of rows; returns what happened since the last call, in order.

        An error of the runner passes through. No event is lost by it, and the running requests are waiting
        again with the tokens they have.
        """
        self._advance()
        return self._told()

    def step_alone(self, id: int) -> list[Event]:
        """A step of one request that has not ended, while all others wait; what happened since the last call.

        Tells apart, after a step has failed, those that fail from those that were only beside them. An error
        of the runner passes through as from `step`.
        """
        scheduler = self._scheduler
        scheduler.preempt_all()
        scheduler.waiting = deque([self._unfinished[id]])
        try:
            self._advance()
        finally:
            scheduler.preempt_all()
            scheduler.waiting = deque(self._unfinished.values())
        return self._told()

    def abort(self, id: int) -> bool:
        """End a request with what it has; its last event says so. False if it had already ended."""
        sequence = self._unfinished.get(id)
        if sequence is None:
            return False
        scoring = sequence.score_start is not None
        last = ScoreEvent(id, None) if scoring else FinishEvent(id, sequence.completion("abort"))
        self._end(sequence, last)
        return True

    def generate(
        self,
        prompts: Iterable[Iterable[int] | Request],
        params: SamplingParams | None = None,
        *,
        num_samples: int = 1,
        salt: bytes = b"",
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """Answer all prompts: first the samples of the first prompt, then those of the second, and so on.

        `progress` is called with (answers ended, answers in all) whenever one ends. If one prompt is refused,
        none is answered.
        """
        sequences: list[Sequence] = []
        for prompt in prompts:
            sequences += self._samples(prompt, params, num_samples, salt)
        ids = self._enqueue(sequences)
        completions: dict[int, Completion] = {}
        with closing(self._follow(ids)) as events:
            for event in events:
                if isinstance(event, FinishEvent):
                    completions[event.id] = event.completion
                    if progress is not None:
                        progress(len(completions), len(ids))
        return [completions[id] for id in ids]

    def stream(
        self, prompt: Iterable[int] | Request, params: SamplingParams | None = None, *, salt: bytes = b""
    ) -> Generator[Event, None, None]:
        """The events of one answer as they come, the last one a FinishEvent. Closing the iterator aborts."""
        return self._follow(self.submit(prompt, params, salt=salt))

    def score(
        self, tokens: Iterable[int], *, start: int = 1, salt: bytes = b"", adapter: str | None = None
    ) -> tuple[float, ...]:
        """Raw logprobs of `tokens[start:]`, each given all tokens before it."""
        return self.score_batch([(tokens, start)], salt=salt, adapter=adapter)[0]

    def score_batch(
        self, texts: Iterable[tuple[Iterable[int], int]], *, salt: bytes = b"", adapter: str | None = None
    ) -> list[tuple[float, ...]]:
        """`score` for many (tokens, start) at once."""
        sequences = [self._limits.text(self._ids, tokens, start, salt) for tokens, start in texts]
        ids = self._enqueue([self._adapted(sequence, adapter) for sequence in sequences])
        scores: dict[int, tuple[float, ...]] = {}
        with closing(self._follow(ids)) as events:
            for event in events:
                assert isinstance(event, ScoreEvent), event
                assert event.logprobs is not None, f"{event.id} was aborted while it was scored"
                scores[event.id] = event.logprobs
        return [scores[id] for id in ids]

    def update_weights(self) -> None:
        """Make the model's changed tensors count: tell the runner, and drop all cached prefixes.

        Raises RequestError while requests are unfinished, since an answer is of one set of weights: let them
        end, or abort them, before changing the tensors.
        """
        if self._unfinished:
            raise RequestError(
                f"update_weights with {len(self._unfinished)} unfinished requests, whose answers would mix "
                f"two sets of weights: let them end, or abort them, before changing weights"
            )
        self._blocks.reset()
        self._runner.weights_changed()

    def add_adapter(self, name: str, folder: Path) -> None:
        """Let requests name the LoRA adapter in `folder`. Raises WeightsError, ConfigError if taken."""
        self._runner.add_adapter(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ConfigError if there is none, RequestError while requests use it."""
        using = sum(sequence.adapter == name for sequence in self._unfinished.values())
        if using:
            raise RequestError(
                f"adapter {name!r} is used by {using} unfinished requests: let them end, or abort"
            )
        self._runner.remove_adapter(name)

    def stats(self) -> EngineStats:
        """Counts of this moment and since the engine was made."""
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            blocks_used=self._blocks.num_held,
            blocks_total=self._blocks.num_blocks,
            steps=self._num_steps,
            computed_tokens=self._num_computed,
            generated_tokens=self._num_generated,
            cached_tokens=self._scheduler.num_cached_tokens,
            preemptions=self._scheduler.num_preemptions,
            drafted_tokens=self._num_drafted,
            accepted_tokens=self._num_accepted,
        )

    def check(self) -> None:
        """Assert that blocks, queues and requests agree."""
        self._blocks.check(sequence.blocks for sequence in self._unfinished.values())
        queued = [*self._scheduler.running, *self._scheduler.waiting]
        assert queued == list(self._unfinished.values()), "the queues do not hold the requests in order"

    def _advance(self) -> None:
        chunks = self._scheduler.schedule()
        if not chunks:
            assert not self._unfinished, "requests are unfinished, but nothing was scheduled"
            return
        start = self._clock()
        try:
            outcomes = self._runner.run(chunks)
        except BaseException:
            # Blocks were published for rows that may never have been written.
            self._scheduler.preempt_all()
            self._blocks.reset()
            raise
        seconds = self._clock() - start
        self._num_steps += 1
        self._num_computed += sum(chunk.num_rows for chunk in chunks)
        if self._speculation is not None:
            self._speculation.observe(chunks, outcomes, seconds)
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            if chunk.draws:
                self._take_draws(chunk, outcome.draws)
            else:
                self._take_rows(chunk, outcome)

    def _take_draws(self, chunk: Chunk, draws: tuple[Draw, ...]) -> None:
        """Append the first token, and one more for every guess before it that was right."""
        sequence = chunk.sequence
        assert len(draws) == chunk.num_draws, f"{len(draws)} tokens drawn, not {chunk.num_draws}"
        if draws[0].token < 0:
            self._end(sequence, FinishEvent(sequence.id, sequence.completion("error", NOTHING_ALLOWED)))
            return
        num_before, error = sequence.num_generated, ""
        for draw, guess in zip_longest(draws, chunk.drafts):
            reason = sequence.append(draw)
            self._emit(TokenEvent(sequence.id, draw))
            if reason is None and sequence.guide is not None:
                error = guide_on(sequence, self._limits.vocab_size)
                reason = "error" if error else None
            if reason is not None or draw.token != guess:
                break
        num_drawn = sequence.num_generated - num_before
        self._num_generated += num_drawn
        self._num_drafted += len(chunk.drafts)
        self._num_accepted += num_drawn - 1
        sequence.num_drafted += len(chunk.drafts)
        sequence.num_accepted += num_drawn - 1
        self._scheduler.computed(sequence, sequence.num_rows - 1)
        if reason is not None:
            self._end(sequence, FinishEvent(sequence.id, sequence.completion(reason, error)))

    def _take_rows(self, chunk: Chunk, outcome: Outcome) -> None:
        sequence = chunk.sequence
        sequence.scores.extend(outcome.logprobs)
        sequence.score_tops.extend(outcome.tops)
        self._scheduler.computed(sequence, chunk.end)
        if chunk.scores and chunk.end == sequence.num_rows:
            self._end(sequence, ScoreEvent(sequence.id, tuple(sequence.scores), tuple(sequence.score_tops)))

    def _samples(
        self, prompt: Iterable[int] | Request, params: SamplingParams | None, num_samples: int, salt: bytes
    ) -> list[Sequence]:
        sequences = self._limits.samples(self._ids, prompt, params, num_samples, salt)
        if isinstance(prompt, Request) and prompt.guide is not None:
            for sequence in sequences:
                sequence.guide = prompt.guide()
                sequence.allowed = allowed_bits(sequence.guide, self._limits.vocab_size)
        adapter = prompt.adapter if isinstance(prompt, Request) else None
        return [self._adapted(sequence, adapter) for sequence in sequences]

    def _adapted(self, sequence: Sequence, adapter: str | None) -> Sequence:
        """The same sequence, to be computed with an adapter. Raises RequestError for an unknown one."""
        if adapter is not None:
            keys = self._runner.adapter_keys
            if adapter not in keys:
                raise RequestError(f"adapter = {adapter!r}: there are {', '.join(sorted(keys)) or 'none'}")
            sequence.adapter = adapter
            sequence.salt = adapted_salt(sequence.salt, keys[adapter])
        return sequence

    def _told(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _emit(self, event: Event) -> None:
        self._inboxes.get(event.id, self._events).append(event)

    def _end(self, sequence: Sequence, event: Event) -> None:
        self._scheduler.remove(sequence)
        del self._unfinished[sequence.id]
        self._emit(event)
        self._inboxes.pop(sequence.id, None)

    def _enqueue(self, sequences: list[Sequence]) -> list[int]:
        for sequence in sequences:
            self._unfinished[sequence.id] = sequence
            self._scheduler.add(sequence)
        return [sequence.id for sequence in sequences]

    def _follow(self, ids: list[int]) -> Generator[Event, None, None]:
        """The events of these requests, kept from `step` from now on; steps whenever there is none."""
        inbox: deque[Event] = deque()
        self._inboxes.update(dict.fromkeys(ids, inbox))

        def events() -> Generator[Event, None, None]:
            num_left = len(ids)
            try:
                while num_left:
                    while not inbox:
                        self._advance()
                    event = inbox.popleft()
                    num_left -= not isinstance(event, TokenEvent)
                    yield event
            finally:
                for id in ids:
                    self.abort(id)

        return events()
