"""POST /v1/chat/completions, in the dialect of OpenAI and DeepSeek. Also without /v1, and under /beta."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from mohist.serve.answer import Event, start, whole
from mohist.serve.ask import Ask
from mohist.serve.openai_ask import chat_ask, ignored_header
from mohist.serve.openai_body import ChatBody
from mohist.serve.openai_check import check_chat
from mohist.serve.openai_reply import ChatReply, documented
from mohist.serve.openai_shape import ChatChunks, chat_completion, error_body
from mohist.serve.routes import as_api_error, error_route, principal, request_id
from mohist.serve.service import Service
from mohist.serve.sse import EventStream, event_bytes
from mohist.serve.wire import JsonReply, json_bytes, unless_client_leaves

__all__ = ["routes"]

PATHS = ("/v1/chat/completions", "/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions")


def routes(service: Service) -> APIRouter:
    """The routes of this dialect."""
    router = APIRouter(route_class=error_route(error_body), tags=["chat"])

    async def chat(body: ChatBody, request: Request) -> Response:
        check_chat(body, service.limits)
        ask = chat_ask(body)
        events = service.answer(ask, principal(request), request_id(request))
        started = await unless_client_leaves(request, start(events))
        headers = ignored_header(body, *started.ignored)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            chunks = ChatChunks(
                started, ask.n, with_logprobs=ask.top_logprobs is not None, include_usage=usage
            )
            return EventStream(
                stream(ask, events, chunks), keep_alive_s=service.keep_alive_s, headers=headers
            )
        answer = await unless_client_leaves(request, whole(events, started, ask.n))
        reply = chat_completion(answer, with_logprobs=ask.top_logprobs is not None)
        return JsonReply(reply, headers=headers)

    for path in PATHS:
        router.add_api_route(
            path,
            chat,
            methods=["POST"],
            response_class=JsonReply,
            responses=documented(ChatReply, streams=True),
        )
    return router


async def stream(ask: Ask, events: AsyncGenerator[Event], chunks: ChatChunks) -> AsyncGenerator[bytes]:
    """The chunks of an answer as server-sent events."""
    try:
        for choice in range(ask.n):
            yield event_bytes(json_bytes(chunks.first(choice)))
        async for event in events:
            for chunk in chunks.of(event):
                yield event_bytes(json_bytes(chunk))
        yield event_bytes(b"[DONE]")
    except Exception as error:
        yield event_bytes(json_bytes(error_body(as_api_error(error))))
    finally:
        await events.aclose()
