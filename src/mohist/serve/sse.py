"""Server-sent events: a response that is written while the answer is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from fastapi import Response
from starlette.types import Receive, Scope, Send

from mohist.serve.answer import Event
from mohist.serve.wire import disconnected, json_bytes

__all__ = ["KEEP_ALIVE", "EventStream", "event_bytes", "named"]

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip."""


def event_bytes(data: bytes, event: str | None = None) -> bytes:
    """One event. `data` is one line."""
    return (b"" if event is None else b"event: " + event.encode() + b"\n") + b"data: " + data + b"\n\n"


async def named(
    events: AsyncGenerator[Event],
    first: Iterable[dict[str, Any]],
    shaped: Callable[[Event], Iterable[dict[str, Any]]],
    failed: Callable[[Exception], Iterable[dict[str, Any]]],
) -> AsyncGenerator[bytes]:
    """A stream whose events are named by their `type`, to the end or to what `failed` makes of an error."""
    try:
        for made in first:
            yield _named(made)
        async for event in events:
            for made in shaped(event):
                yield _named(made)
    except Exception as error:
        for made in failed(error):
            yield _named(made)
    finally:
        await events.aclose()


def _named(made: dict[str, Any]) -> bytes:
    return event_bytes(json_bytes(made), made["type"])


class EventStream(Response):
    """Sends what `chunks` yields; a comment where it is silent for `keep_alive_s`.

    A client that leaves ends it at once: the generator is closed wherever it waits.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes],
        *,
        keep_alive_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self.headers.update(headers or {})
        del self.headers["content-length"]
        self._chunks = chunks
        self._keep_alive_s = keep_alive_s
        self._spoke_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The response as ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._spoke_s = time.monotonic()
        # Three tasks a response, and none a chunk: chunks are many.
        said = asyncio.ensure_future(self._say(send))
        beside = self._break_silence(send), disconnected(receive)
        others = [asyncio.ensure_future(one) for one in beside]
        try:
            await asyncio.wait({said, *others}, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                said.result()
        finally:
            for task in (said, *others):
                task.cancel()
            await asyncio.gather(said, *others, return_exceptions=True)
            await self._chunks.aclose()

    async def _say(self, send: Send) -> None:
        async for chunk in self._chunks:
            self._spoke_s = time.monotonic()
            await _send(send, chunk)
        await _send(send, b"", more=False)

    async def _break_silence(self, send: Send) -> None:
        while True:
            left_s = self._spoke_s + self._keep_alive_s - time.monotonic()
            if left_s > 0:
                await asyncio.sleep(left_s)
            else:
                self._spoke_s = time.monotonic()
                await _send(send, KEEP_ALIVE)


def _send(send: Send, body: bytes, *, more: bool = True) -> Awaitable[None]:
    return send({"type": "http.response.body", "body": body, "more_body": more})
