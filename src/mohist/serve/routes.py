"""What the routes of every dialect have in common: errors in its shape, and who asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from mohist.serve.access import Principal
from mohist.serve.errors import ApiError, invalid
from mohist.serve.wire import ClientLeft, JsonReply

__all__ = ["as_api_error", "error_route", "internal_error", "principal", "request_id"]

_log = logging.getLogger(__name__)

ErrorShape = Callable[[ApiError], Any]


def error_route(shape: ErrorShape) -> type[APIRoute]:
    """A class of routes whose errors are JSON of this shape, whatever went wrong."""

    class ErrorRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handler = super().get_route_handler()

            async def shaped(request: Request) -> Response:
                try:
                    return await handler(request)
                except ClientLeft:
                    # Nobody reads this; proxies know the number.
                    return Response(status_code=499)
                except Exception as error:
                    known = as_api_error(error)
                    return JsonReply(shape(known), status_code=known.status, headers=known.headers)

            return shaped

    return ErrorRoute


def as_api_error(error: Exception) -> ApiError:
    """Any error as a client may see it."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _validation(error)
        case HTTPException():
            detail = str(error.detail)
            return ApiError(error.status_code, detail)
    return internal_error(error)


def internal_error(error: Exception) -> ApiError:
    """An error of the server's own, which is logged and not told."""
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; it was logged", type="server_error")


def _validation(error: RequestValidationError) -> ApiError:
    """One thing that is wrong with a body's fields and types: of several, the one that is found deepest.

    Where a field may be of two types, that is in the one that was meant.
    """
    first = max(error.errors(), key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        return invalid(f"Invalid JSON request: {first['ctx']['error']} at character {first['loc'][-1]}")
    names = [part for part in first["loc"][1:] if isinstance(part, str | int)]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in names).lstrip(".")
    where = f"{path}: " if path else ""
    return invalid(f"Invalid request body: {where}{first['msg']}", str(names[0]) if names else None)


def principal(request: Request) -> Principal:
    """Who asks."""
    found = request.state.principal
    assert isinstance(found, Principal)
    return found


def request_id(request: Request) -> str:
    """The id under which the request is logged and metered."""
    return getattr(request.state, "request_id", "")
