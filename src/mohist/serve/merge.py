"""Several answers at once, as for a list of prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from mohist.serve.answer import Event

__all__ = ["merged"]


async def merged(streams: Sequence[AsyncGenerator[Event]]) -> AsyncGenerator[tuple[int, Event]]:
    """(index of the stream, event) as they come. Ends with the last stream, or raises the first error."""
    if len(streams) == 1:
        # Usual, and without a task for every event.
        async with aclosing(streams[0]) as events:
            async for event in events:
                yield 0, event
        return
    following = {asyncio.ensure_future(_next(stream)): i for i, stream in enumerate(streams)}
    try:
        while following:
            done, _ = await asyncio.wait(following, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=following.__getitem__):
                index = following.pop(task)
                event = task.result()
                if event is not None:
                    following[asyncio.ensure_future(_next(streams[index]))] = index
                    yield index, event
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[Event]) -> Event | None:
    return await anext(stream, None)
