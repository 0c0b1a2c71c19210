"""The one way from a request to its answer, for every dialect.

`Service.answer` finds the model, admits the request or refuses it, passes the model's events on and has them
metered. What a model does with an ask is in `local`; how HTTP looks is in the dialects.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Protocol

from mohist.serve.access import Principal
from mohist.serve.answer import Event, Finished, Piece, Started, ToolCallPiece, Usage
from mohist.serve.ask import Ask
from mohist.serve.errors import overloaded, unavailable
from mohist.serve.local import LocalModel
from mohist.serve.models import Models
from mohist.serve.settings import LimitsConfig

__all__ = ["Meter", "NoMeter", "Service"]


class Meter(Protocol):
    """Limits of keys, usage and metrics. Every method returns at once."""

    def enter(self, principal: Principal) -> None:
        """Admit a request, which leaves again, or raise ApiError with nothing taken."""
        ...

    def leave(self, principal: Principal) -> None:
        """A request that entered has ended, however."""
        ...

    def progress(self, model: str, seconds: float, *, first: bool) -> None:
        """Text came: `seconds` after the request if it is its first, else after the text before."""
        ...

    def record(
        self, principal: Principal, request_id: str, model: str, usage: Usage, reason: str, seconds: float
    ) -> None:
        """A choice has ended, by "abort" if the client left, `seconds` after its request came."""
        ...

    def headers(self, principal: Principal) -> Mapping[str, str]:
        """What every response to this caller says about his limits."""
        ...

    def answered(self, status: int) -> None:
        """A response began, of whatever kind."""
        ...


class NoMeter:
    """Counts nothing and refuses nobody."""

    def enter(self, principal: Principal) -> None:
        """Everybody is welcome."""

    def leave(self, principal: Principal) -> None:
        """Nothing to note."""

    def progress(self, model: str, seconds: float, *, first: bool) -> None:
        """Nothing to note."""

    def record(
        self, principal: Principal, request_id: str, model: str, usage: Usage, reason: str, seconds: float
    ) -> None:
        """Nothing to note."""

    def headers(self, principal: Principal) -> Mapping[str, str]:
        """There are no limits."""
        return {}

    def answered(self, status: int) -> None:
        """Nothing to note."""


class Service:
    """Admits requests and has them answered. Used on one event loop."""

    def __init__(
        self,
        models: Models,
        *,
        limits: LimitsConfig | None = None,
        keep_alive_s: float = 10.0,
        meter: Meter | None = None,
    ) -> None:
        """`keep_alive_s`: after how much silence a stream says that it is alive."""
        self.models = models
        self.limits = limits or LimitsConfig()
        self.keep_alive_s = keep_alive_s
        self.meter: Meter = meter or NoMeter()
        self._num_requests = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.started_at = int(time.time())
        """Seconds since 1970."""
        self.draining = False
        """Whether new requests are refused because the server is about to end."""

    async def answer(self, ask: Ask, principal: Principal, request_id: str = "") -> AsyncGenerator[Event]:
        """A `Started`, then all choices' events. Closing the iterator ends the work. Raises ApiError."""
        arrived_s = time.monotonic()
        async with AsyncExitStack() as stack:
            self._admit()
            stack.callback(self._release)
            self.meter.enter(principal)
            stack.callback(self.meter.leave, principal)
            ask = dataclasses.replace(ask, adapter=self.models.adapter(ask.model))
            backend = await stack.enter_async_context(self.models.lease(ask.model))
            spent = _Spent(self.meter, ask.n, principal, request_id, arrived_s)
            stack.callback(spent.abort)
            events = await stack.enter_async_context(aclosing(backend.answer(ask, salt=principal.salt)))
            async for event in events:
                spent.add(event)
                yield event

    @asynccontextmanager
    async def borrow(self, name: str, principal: Principal) -> AsyncGenerator[LocalModel]:
        """A model of this machine, for what takes no tokens of the engine. Raises ApiError."""
        async with AsyncExitStack() as stack:
            self._admit()
            stack.callback(self._release)
            self.meter.enter(principal)
            stack.callback(self.meter.leave, principal)
            backend = await stack.enter_async_context(self.models.lease(name))
            if not isinstance(backend, LocalModel):
                raise unavailable(f"the tokenizer of {name}, which another server runs,", "model")
            yield backend

    async def drain(self) -> None:
        """Refuse new requests and return when the running ones have ended."""
        self.draining = True
        await self._idle.wait()

    @property
    def num_requests(self) -> int:
        """Requests that are running or waiting."""
        return self._num_requests

    def _admit(self) -> None:
        if self.draining:
            raise overloaded("the server is about to end and takes no new requests: try again", 5)
        if self._num_requests >= self.limits.max_requests:
            raise overloaded(
                f"{self._num_requests} requests are running or waiting, and there may be no more: try again"
            )
        self._num_requests += 1
        self._idle.clear()

    def _release(self) -> None:
        self._num_requests -= 1
        if not self._num_requests:
            self._idle.set()


class _Spent:
    """What one request has cost so far, told to the meter."""

    def __init__(self, meter: Meter, n: int, principal: Principal, request_id: str, arrived_s: float) -> None:
        self._meter, self._principal, self._request_id = meter, principal, request_id
        self._arrived_s = arrived_s
        self._last_s: float | None = None
        """When the last text came."""
        self._started: Started | None = None
        self._unfinished = dict.fromkeys(range(n), 0)
        """Choices that have not ended, with the tokens that they have cost as far as is known."""

    def add(self, event: Event) -> None:
        """The next event of the answer."""
        match event:
            case Piece() | ToolCallPiece():
                self._progress()
                self._unfinished[event.choice] = event.num_tokens
            case Finished():
                self._record(event.choice, event.usage, event.reason)
            case Started():
                self._started = event

    def abort(self) -> None:
        """No event follows: what has not ended never will."""
        if self._started is not None:
            for choice, num_tokens in list(self._unfinished.items()):
                num_prompt = 0 if choice else self._started.prompt_tokens
                usage = Usage(prompt_tokens=num_prompt, completion_tokens=num_tokens)
                self._record(choice, usage, "abort")

    def _progress(self) -> None:
        assert self._started is not None
        now_s, last_s = time.monotonic(), self._last_s
        since_s = self._arrived_s if last_s is None else last_s
        self._meter.progress(self._started.model, now_s - since_s, first=last_s is None)
        self._last_s = now_s

    def _record(self, choice: int, usage: Usage, reason: str) -> None:
        assert self._started is not None
        del self._unfinished[choice]
        seconds = time.monotonic() - self._arrived_s
        self._meter.record(self._principal, self._request_id, self._started.model, usage, reason, seconds)
