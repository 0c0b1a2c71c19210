"""JSON on the wire, and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic_core import PydanticSerializationError, to_json
from starlette.types import Receive

__all__ = ["ClientLeft", "JsonReply", "disconnected", "json_bytes", "unless_client_leaves"]

T = TypeVar("T")

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def json_bytes(value: Any) -> bytes:
    """`value` as JSON in UTF-8. JSON has no infinity: it becomes null.

    Half a surrogate pair, which models and clients can write, becomes `?`.
    """
    try:
        return to_json(value, inf_nan_mode="null")
    except PydanticSerializationError:
        # It refuses the half pair; otherwise both write the same, and this one in a fifth of the time.
        return _ENCODER.encode(value).encode("utf-8", "replace")


class JsonReply(JSONResponse):
    """A response whose body is `json_bytes` of its content."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json_bytes(content)


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client disconnects. Raises ClientLeft then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Return once the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
