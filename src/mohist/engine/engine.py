"""Tokens in, tokens and log-probabilities out, for many requests at once.

`submit` and `submit_score` line requests up, `step` moves the running ones ahead by one batch of rows and
returns what happened, `abort` takes one out. `generate`, `stream` and `score` drive the same steps until
their own requests have ended, and leave the events of other requests to whoever waits for them. One thread
at a time may use an engine.

What becomes of a request is told from top to bottom by three files: it is checked in `intake`, moved by the
steps of `loop`, and its events wait in `inboxes`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from time import perf_counter

from mohist.engine.inboxes import Inboxes
from mohist.engine.intake import Intake
from mohist.engine.interface import EngineStats, Runner
from mohist.engine.loop import StepLoop
from mohist.engine.scheduler import EngineConfig
from mohist.engine.sequence import Event, FinishEvent, ScoreEvent, Sequence, TokenEvent
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
        self._runner = runner
        self._intake = Intake(runner)
        self._inboxes = Inboxes()
        self._loop = StepLoop(runner, self.config, speculation, clock, self._inboxes)

    @property
    def busy(self) -> bool:
        """Whether `step` has anything left to do or to tell."""
        return bool(self._loop.unfinished or self._inboxes)

    @property
    def capacity(self) -> int:
        """Most tokens that a prompt and its answer may have together."""
        return self._intake.capacity

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
        return self._enqueue(self._intake.samples(prompt, params, num_samples, salt))

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
        return self._enqueue([self._intake.text(tokens, start, salt, adapter, top_logprobs)])[0]

    def step(self) -> list[Event]:
        """Compute one batch of rows; returns what happened since the last call, in order.

        An error of the runner passes through. No event is lost by it, and the running requests are waiting
        again with the tokens they have.
        """
        self._loop.advance()
        return self._inboxes.take()

    def step_alone(self, id: int) -> list[Event]:
        """A step of one request that has not ended, while all others wait; what happened since the last call.

        Tells apart, after a step has failed, those that fail from those that were only beside them. An error
        of the runner passes through as from `step`.
        """
        self._loop.advance_alone(self._loop.unfinished[id])
        return self._inboxes.take()

    def abort(self, id: int) -> bool:
        """End a request with what it has; its last event says so. False if it had already ended."""
        sequence = self._loop.unfinished.get(id)
        if sequence is None:
            return False
        self._loop.abort(sequence)
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
            sequences += self._intake.samples(prompt, params, num_samples, salt)
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
        ids = self._enqueue([self._intake.text(tokens, start, salt, adapter) for tokens, start in texts])
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
        if self._loop.unfinished:
            raise RequestError(
                f"update_weights with {len(self._loop.unfinished)} unfinished requests, whose answers would "
                f"mix two sets of weights: let them end, or abort them, before changing weights"
            )
        self._loop.forget_prefixes()
        self._runner.weights_changed()

    def add_adapter(self, name: str, folder: Path) -> None:
        """Let requests name the LoRA adapter in `folder`. Raises WeightsError, ConfigError if taken."""
        self._runner.add_adapter(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Raises ConfigError if there is none, RequestError while requests use it."""
        using = sum(sequence.adapter == name for sequence in self._loop.unfinished.values())
        if using:
            raise RequestError(
                f"adapter {name!r} is used by {using} unfinished requests: let them end, or abort"
            )
        self._runner.remove_adapter(name)

    def stats(self) -> EngineStats:
        """Counts of this moment and since the engine was made."""
        return self._loop.stats()

    def check(self) -> None:
        """Assert that blocks, queues and requests agree."""
        self._loop.check()

    def _enqueue(self, sequences: list[Sequence]) -> list[int]:
        for sequence in sequences:
            self._loop.add(sequence)
        return [sequence.id for sequence in sequences]

    def _follow(self, ids: list[int]) -> Generator[Event, None, None]:
        """The events of these requests, kept from `step` from now on; steps whenever there is none."""
        inbox = self._inboxes.follow(ids)

        def events() -> Generator[Event, None, None]:
            num_left = len(ids)
            try:
                while num_left:
                    while not inbox:
                        self._loop.advance()
                    event = inbox.popleft()
                    num_left -= not isinstance(event, TokenEvent)
                    yield event
            finally:
                for id in ids:
                    self.abort(id)

        return events()
