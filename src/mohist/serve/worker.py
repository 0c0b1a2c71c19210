"""The one thread that owns a model and steps its engine, and how asyncio talks to it.

Whatever touches the engine is a closure that `EngineWorker` runs between two steps. Events go back once a
step, all together. A `Job` is one request's end of it: an async iterator over its events.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

from mohist.engine.engine import Engine, EngineStats, Event, TokenEvent
from mohist.types import Request

__all__ = ["EngineError", "EngineWorker", "Job"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

FAILED = "the engine failed on this request; it was logged"
MOST_MISSES = 3
IDLE_BEAT_S = 0.5
"""How often an idle worker shows that it is alive."""


class EngineError(Exception):
    """The engine failed while it made an answer, or was stopped. Its log says more."""


class Job:
    """Answers that are being made. Iterate over (index of the answer, engine event); `close` in any case."""

    def __init__(self, worker: EngineWorker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._events: deque[tuple[int, Event] | Exception] = deque()
        self._arrival: asyncio.Future[None] | None = None
        """Of the next events, if somebody waits for them."""
        self._num_left = 0
        self.ids: list[int] = []
        """Of the engine; set and read on the worker's thread."""

    def __aiter__(self) -> Job:
        return self

    async def __anext__(self) -> tuple[int, Event]:
        while not self._events:
            if not self._num_left:
                raise StopAsyncIteration
            self._arrival = self._loop.create_future()
            await self._arrival
        event = self._events.popleft()
        if isinstance(event, Exception):
            self._num_left = 0
            raise event
        if not isinstance(event[1], TokenEvent):
            self._num_left -= 1
        return event

    def abort(self, index: int) -> None:
        """End one answer with what it has; its last event follows."""
        self._worker.post(lambda engine: engine.abort(self.ids[index]))

    def close(self) -> None:
        """End all answers; nobody waits for them any more."""
        if self._num_left:
            self._num_left = 0
            self._worker.post(lambda _: self._worker.forget(self))

    def begin(self, count: int) -> None:
        """`count` answers are lined up."""
        self._num_left = count

    def put(self, events: list[tuple[int, Event] | Exception]) -> None:
        """Take events over, on the loop's thread."""
        self._events += events
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where `put` must be called."""
        return self._loop


class EngineWorker:
    """Runs one engine on a thread of its own until `stop`."""

    def __init__(self, engine: Engine, *, name: str = "engine") -> None:
        self._engine = engine
        self._commands: queue.SimpleQueue[Callable[[Engine], object]] = queue.SimpleQueue()
        self._owners: dict[int, tuple[Job, int]] = {}
        self._stopping = False
        self._misses = 0
        """Steps that failed one after the other although every request in them goes on alone."""
        self._beat_s = time.monotonic()
        self.stats: EngineStats = engine.stats()
        """As of the last step."""
        self._thread = threading.Thread(target=self._run, name=f"mohist-{name}", daemon=True)
        self._thread.start()

    async def submit(self, request: Request, *, n: int = 1, salt: bytes = b"") -> Job:
        """Line up `n` answers. Raises what `Engine.submit` raises."""
        job = Job(self, asyncio.get_running_loop())

        def line_up(engine: Engine) -> int:
            job.ids = engine.submit(request, num_samples=n, salt=salt)
            self._owners |= {id: (job, index) for index, id in enumerate(job.ids)}
            return len(job.ids)

        return await self._lined_up(job, line_up)

    async def score(
        self,
        tokens: tuple[int, ...],
        *,
        salt: bytes = b"",
        adapter: str | None = None,
        top_logprobs: int = 0,
    ) -> Job:
        """Line up a text to be scored from its second token on; its one event is a ScoreEvent."""
        job = Job(self, asyncio.get_running_loop())

        def line_up(engine: Engine) -> int:
            job.ids = [engine.submit_score(tokens, salt=salt, adapter=adapter, top_logprobs=top_logprobs)]
            self._owners[job.ids[0]] = (job, 0)
            return 1

        return await self._lined_up(job, line_up)

    def call(self, function: Callable[[Engine], T]) -> Future[T]:
        """Run `function` on the worker's thread between two steps."""
        future: Future[T] = Future()

        def run(engine: Engine) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(engine))
            except Exception as error:
                future.set_exception(error)

        self.post(run)
        return future

    def post(self, command: Callable[[Engine], object]) -> None:
        """`call` for what returns nothing and never fails."""
        self._commands.put(command)

    def forget(self, job: Job) -> None:
        """Abort what is left of a job. On the worker's thread."""
        for id in job.ids:
            if self._owners.pop(id, None) is not None:
                self._engine.abort(id)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the last step ended, or since the idle worker last looked for work."""
        return time.monotonic() - self._beat_s

    def stop(self) -> None:
        """End the thread after its step; jobs that are not done fail. Returns when it has ended."""
        self._stopping = True
        self.post(lambda _: None)
        self._thread.join()

    async def _lined_up(self, job: Job, line_up: Callable[[Engine], int]) -> Job:
        future = self.call(line_up)
        try:
            job.begin(await asyncio.wrap_future(future))
        except asyncio.CancelledError:
            # It may have been lined up already, or be just now.
            self.post(lambda _: self.forget(job))
            raise
        return job

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._obey()
                if self._engine.busy and not self._stopping:
                    self._step()
                self._beat_s = time.monotonic()
        finally:
            unloaded = "the model was unloaded while it answered"
            self._fail(self._owners.values(), unloaded if self._stopping else FAILED)

    def _obey(self) -> None:
        """Run what was posted; wait for it while there is nothing else to do."""
        try:
            command = self._commands.get(block=not self._engine.busy, timeout=IDLE_BEAT_S)
            while True:
                command(self._engine)
                command = self._commands.get_nowait()
        except queue.Empty:
            return

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception:
            _log.exception("a step of the engine failed", extra={"requests": len(self._owners)})
            self._part()
            return
        self._misses = 0
        self.stats = self._engine.stats()
        self._hand_out(events)

    def _part(self) -> None:
        """Fail the requests that a step fails on. The others were only beside them, and go on."""
        failed = [id for id in list(self._owners) if id in self._owners and not self._goes_alone(id)]
        self._misses = 0 if failed else self._misses + 1
        if self._misses >= MOST_MISSES:
            self._fail(self._owners.values(), FAILED)

    def _goes_alone(self, id: int) -> bool:
        """Whether a request gets a token without the others. If not, it has failed."""
        owner, moved = self._owners[id], False
        try:
            while id in self._owners and not moved:
                events = self._engine.step_alone(id)
                moved = any(event.id == id for event in events)
                self._hand_out(events)
                self._beat_s = time.monotonic()
        except Exception:
            _log.exception("the engine failed on a request")
            self._fail([owner], FAILED)
            return False
        return True

    def _hand_out(self, events: list[Event]) -> None:
        batches: dict[Job, list[tuple[int, Event] | Exception]] = {}
        for event in events:
            owner = self._owners.get(event.id)
            if owner is None:
                continue
            if not isinstance(event, TokenEvent):
                del self._owners[event.id]
            batches.setdefault(owner[0], []).append((owner[1], event))
        self._deliver(batches)

    def _fail(self, owners: Iterable[tuple[Job, int]], message: str) -> None:
        jobs = dict.fromkeys(job for job, _ in owners)
        for job in jobs:
            self.forget(job)
        self._deliver({job: [EngineError(message)] for job in jobs})

    def _deliver(self, batches: dict[Job, list[tuple[int, Event] | Exception]]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in batches:
            loops.setdefault(job.loop, []).append(job)
        for loop, jobs in loops.items():

            def put(jobs: list[Job] = jobs) -> None:
                for job in jobs:
                    job.put(batches[job])

            if not loop.is_closed():
                loop.call_soon_threadsafe(put)
