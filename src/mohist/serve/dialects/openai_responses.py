"""POST /v1/responses, OpenAI's newer API, without its memory. Also without /v1."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from mohist.serve.answer import Event, start
from mohist.serve.openai_ask import ignored_header
from mohist.serve.openai_reply import documented
from mohist.serve.openai_shape import error_body
from mohist.serve.responses_body import ResponsesBody, responses_ask
from mohist.serve.responses_reply import ResponseReply
from mohist.serve.responses_shape import ResponseEvents
from mohist.serve.routes import as_api_error, error_route, principal, request_id
from mohist.serve.service import Service
from mohist.serve.sse import EventStream, named
from mohist.serve.wire import JsonReply, unless_client_leaves

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """The routes of this dialect."""
    router = APIRouter(route_class=error_route(error_body), tags=["responses"])

    async def responses(body: ResponsesBody, request: Request) -> Response:
        ask = responses_ask(body, service.limits)
        events = service.answer(ask, principal(request), request_id(request))
        started = await unless_client_leaves(request, start(events))
        headers = ignored_header(body, *(["store"] if body.store else []), *started.ignored)
        shape = ResponseEvents(started, body)
        if body.stream:
            chunks = named(events, shape.first(), shape.of, lambda error: shape.failed(as_api_error(error)))
            return EventStream(chunks, keep_alive_s=service.keep_alive_s, headers=headers)
        return JsonReply(await unless_client_leaves(request, whole(events, shape)), headers=headers)

    for path in ("/v1/responses", "/responses"):
        router.add_api_route(
            path,
            responses,
            methods=["POST"],
            response_class=JsonReply,
            responses=documented(ResponseReply, streams=True),
        )
    return router


async def whole(events: AsyncGenerator[Event], shape: ResponseEvents) -> dict[str, Any]:
    """The response in the last event of its stream."""
    response: dict[str, Any] = {}
    for first in shape.first():
        response = first["response"]
    async for event in events:
        for made in shape.of(event):
            response = made.get("response", response)
    return response
