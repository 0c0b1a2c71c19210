"""POST /v1/messages, in the dialect of Anthropic, and how many tokens it has. Also under /anthropic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request, Response

from mohist.chat.chat import Chat
from mohist.errors import ChatError
from mohist.serve.answer import Event, start
from mohist.serve.anthropic_body import CountBody, MessagesBody, messages_ask
from mohist.serve.anthropic_reply import CountReply, MessageReply, documented
from mohist.serve.anthropic_shape import MessageEvents, error_body, summed
from mohist.serve.ask import Ask
from mohist.serve.errors import invalid
from mohist.serve.openai_ask import ignored_header
from mohist.serve.prompt import chat_prompt, ignored_fields
from mohist.serve.routes import as_api_error, error_route, principal, request_id
from mohist.serve.service import Service
from mohist.serve.sse import EventStream, named
from mohist.serve.wire import JsonReply, unless_client_leaves

__all__ = ["routes"]

PREFIXES = ("/v1/messages", "/anthropic/v1/messages")


def routes(service: Service) -> APIRouter:
    """The routes of this dialect."""
    router = APIRouter(route_class=error_route(error_body), tags=["anthropic"])

    async def messages(body: MessagesBody, request: Request) -> Response:
        ask = messages_ask(body, service.limits)
        events = service.answer(ask, principal(request), request_id(request))
        started = await unless_client_leaves(request, start(events))
        headers = ignored_header(body, *started.ignored)
        shape = MessageEvents(started)
        if body.stream:
            chunks = named(events, shape.first(), shape.of, lambda error: [error_body(as_api_error(error))])
            return EventStream(chunks, keep_alive_s=service.keep_alive_s, headers=headers)
        return JsonReply(await unless_client_leaves(request, whole(events, shape)), headers=headers)

    async def count(body: CountBody, request: Request) -> Response:
        ask = messages_ask(body, service.limits)
        async with service.borrow(ask.model, principal(request)) as model:
            chat = model.llm.chat
            tokens = await asyncio.to_thread(prompt_of, chat, ask)
        headers = ignored_header(body, *ignored_fields(chat, ask))
        return JsonReply({"input_tokens": len(tokens)}, headers=headers)

    for prefix in PREFIXES:
        router.add_api_route(
            prefix,
            messages,
            methods=["POST"],
            response_class=JsonReply,
            responses=documented(MessageReply, streams=True),
        )
        router.add_api_route(
            f"{prefix}/count_tokens",
            count,
            methods=["POST"],
            response_class=JsonReply,
            responses=documented(CountReply),
        )
    return router


def prompt_of(chat: Chat, ask: Ask) -> list[int]:
    """The tokens of a conversation's prompt. Raises ApiError."""
    try:
        return chat_prompt(chat, ask)
    except ChatError as error:
        raise invalid(error, "messages") from error


async def whole(events: AsyncGenerator[Event], shape: MessageEvents) -> object:
    """A message that is the sum of its stream."""
    message = None
    for first in shape.first():
        message = summed(message, first)
    async for event in events:
        for made in shape.of(event):
            message = summed(message, made)
    return message
