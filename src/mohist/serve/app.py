"""The ASGI application: every dialect's routes behind one gate.

The gate is pure ASGI, so that streams pass through it untouched: it names each request, refuses bodies that
are too large, asks who is there, and writes the access log, in which there is nothing of what was said.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mohist
from mohist.serve import dialects, page
from mohist.serve.access import OPEN_PATH, Access, AccessError
from mohist.serve.errors import ApiError
from mohist.serve.openai_shape import error_body
from mohist.serve.routes import as_api_error
from mohist.serve.service import Service
from mohist.serve.wire import JsonReply

__all__ = ["make_app"]

_log = logging.getLogger("mohist.serve.access")


def make_app(
    service: Service,
    access: Access,
    *,
    routers: Iterable[APIRouter] = (),
    lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None,
) -> ASGIApp:
    """The application: the page, the dialects and further `routers`.

    `lifespan` is entered before the first request and left after the last.
    """

    @asynccontextmanager
    async def whole_life(_: FastAPI) -> AsyncGenerator[None]:
        if lifespan is None:
            yield
            return
        async with lifespan():
            yield

    app = FastAPI(
        title="Mohist",
        version=mohist.__version__,
        lifespan=whole_life,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    app.include_router(page.routes(service.limits))
    for module in pkgutil.iter_modules(dialects.__path__):
        app.include_router(importlib.import_module(f"{dialects.__name__}.{module.name}").routes(service))
    for router in routers:
        app.include_router(router)
    app.openapi = lambda: _openapi(app)
    app.add_exception_handler(HTTPException, _error)
    app.add_exception_handler(Exception, _error)
    return Gate(app, access, service)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document. FastAPI adds a 422 to what takes a body; here that is a 400."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = document
    return app.openapi_schema


async def _error(_: Request, error: Exception) -> Response:
    """What no dialect has shaped: unknown paths and methods."""
    return _reply(as_api_error(error))


def _reply(error: ApiError) -> Response:
    """An error before any dialect: OpenAI's shape with Anthropic's `type`, for clients of either."""
    return JsonReply({"type": "error", **error_body(error)}, status_code=error.status, headers=error.headers)


class Gate:
    """Lets requests in. `scope["state"]` gets `request_id` and `principal`."""

    def __init__(self, app: ASGIApp, access: Access, service: Service) -> None:
        self.app = app
        self._access = access
        self._meter = service.meter
        self._limits = service.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin_s = time.monotonic()
        id = f"req_{uuid4().hex}"
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = id
        status = 499

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._meter.answered(status)
                limits = self._meter.headers(state["principal"]) if "principal" in state else {}
                further = [(name.encode(), value.encode()) for name, value in limits.items()]
                message["headers"] = [*message["headers"], (b"x-request-id", id.encode()), *further]
            await send(message)

        try:
            await self._let_in(scope, state, receive, sending)
        finally:
            _log.info(
                "request",
                extra={
                    "request_id": id,
                    "method": scope["method"],
                    # The route's pattern: what stands in a path may be what somebody wrote.
                    "route": getattr(scope.get("route"), "path", ""),
                    "status": status,
                    "seconds": round(time.monotonic() - begin_s, 6),
                    "key_id": state["principal"].key_id if "principal" in state else "",
                },
            )

    async def _let_in(self, scope: Scope, state: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["path"] != OPEN_PATH:
            try:
                state["principal"] = self._access.check(scope["headers"])
            except AccessError as error:
                kind = "authentication_error" if error.status == 401 else "permission_error"
                reply = _reply(ApiError(error.status, str(error), type=kind))
                reply.raw_headers += error.headers
                await reply(scope, receive, send)
                return
        setting = "max_pdf_bytes" if scope["path"] == page.PDF_PATH else "max_body_bytes"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > getattr(self._limits, setting):
            await _reply(self._too_large(setting))(scope, receive, send)
            return
        await self.app(scope, self._bounded(receive, setting), send)

    def _bounded(self, receive: Receive, setting: str) -> Receive:
        """`receive` that raises for bodies of unknown length once they are too large."""
        left = getattr(self._limits, setting)

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise HTTPException(413, str(self._too_large(setting)))
            return message

        return bounded

    def _too_large(self, setting: str) -> ApiError:
        most = getattr(self._limits, setting)
        return ApiError(
            413, f"the body has more than {most:,} bytes (limits.{setting})", code="body_too_large"
        )
