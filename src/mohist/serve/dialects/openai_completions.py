"""POST /v1/completions: a raw text continued, or filled in before its `suffix`. Also under / and /beta."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence

from fastapi import APIRouter, Request, Response

from mohist.serve.answer import Answer, Choice, Event, Started, start
from mohist.serve.ask import Ask
from mohist.serve.errors import invalid, unavailable
from mohist.serve.merge import merged
from mohist.serve.openai_ask import ignored_header, refuse, sampling, stop_strings
from mohist.serve.openai_body import CompletionBody
from mohist.serve.openai_check import check_completion
from mohist.serve.openai_reply import TextReply, documented
from mohist.serve.openai_shape import error_body
from mohist.serve.openai_text import TextChunks, text_completion
from mohist.serve.routes import as_api_error, error_route, principal, request_id
from mohist.serve.service import Service
from mohist.serve.sse import EventStream, event_bytes
from mohist.serve.wire import JsonReply, json_bytes, unless_client_leaves

__all__ = ["routes"]

PATHS = ("/v1/completions", "/completions", "/beta/completions", "/beta/v1/completions")
DEFAULT_MAX_TOKENS = 16
"""OpenAI's: a raw text has no end of its own."""


def routes(service: Service) -> APIRouter:
    """The routes of this dialect."""
    router = APIRouter(route_class=error_route(error_body), tags=["completions"])

    async def complete(body: CompletionBody, request: Request) -> Response:
        check_completion(body, service.limits)
        asks = asks_of(body, service)
        streams = [service.answer(ask, principal(request), request_id(request)) for ask in asks]
        started = await unless_client_leaves(request, begin(streams))
        events = merged(streams)
        headers = ignored_header(body, *started[0].ignored)
        n = asks[0].n
        with_logprobs = body.logprobs is not None
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            chunks = TextChunks(started[0], len(asks) * n, with_logprobs=with_logprobs, include_usage=usage)
            return EventStream(stream(events, n, chunks), keep_alive_s=service.keep_alive_s, headers=headers)
        answers = await unless_client_leaves(request, answers_of(events, started, n))
        return JsonReply(text_completion(answers, with_logprobs=with_logprobs), headers=headers)

    for path in PATHS:
        router.add_api_route(
            path,
            complete,
            methods=["POST"],
            response_class=JsonReply,
            responses=documented(TextReply, streams=True),
        )
    return router


def asks_of(body: CompletionBody, service: Service) -> list[Ask]:
    """An ask for each prompt."""
    refuse(body)
    prompts = prompts_of(body)
    if not 1 <= len(prompts) <= service.limits.max_prompts:
        raise invalid(f"{len(prompts)} prompts: from 1 to {service.limits.max_prompts} are allowed", "prompt")
    if body.receipt and len(prompts) > 1:
        raise unavailable("a receipt for several prompts (ask for one prompt at a time)", "receipt")
    ask = Ask(
        model=body.model,
        suffix=body.suffix,
        echo=bool(body.echo),
        sampling={"max_tokens": DEFAULT_MAX_TOKENS, **sampling(body)},
        n=body.n or 1,
        stop=stop_strings(body),
        top_logprobs=body.logprobs,
        receipt=bool(body.receipt),
    )
    if ask.suffix is not None and ask.echo:
        raise invalid("echo and suffix exclude each other: leave one of them out", "echo")
    return [dataclasses.replace(ask, prompt=prompt) for prompt in prompts]


def prompts_of(body: CompletionBody) -> list[str | tuple[int, ...]]:
    """One prompt or several, as text or tokens."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    tokens = [item for item in prompt if isinstance(item, int)]
    if tokens:
        return [tuple(tokens)]
    return [tuple(item) if isinstance(item, list) else item for item in prompt if not isinstance(item, int)]


async def begin(streams: Sequence[AsyncGenerator[Event]]) -> list[Started]:
    """The first event of every answer. What is wrong with a prompt is raised here, and ends all."""
    started = []
    try:
        for one in await asyncio.gather(*map(start, streams), return_exceptions=True):
            if isinstance(one, BaseException):
                raise one
            started.append(one)
        return started
    except BaseException:
        for stream in streams:
            await stream.aclose()
        raise


async def answers_of(
    events: AsyncGenerator[tuple[int, Event]], started: Sequence[Started], n: int
) -> list[Answer]:
    """The whole answers."""
    answers = [Answer(one, [Choice() for _ in range(n)]) for one in started]
    async for index, event in events:
        assert not isinstance(event, Started), "an answer starts once"
        answers[index].choices[event.choice].add(event)
    return answers


async def stream(
    events: AsyncGenerator[tuple[int, Event]], n: int, chunks: TextChunks
) -> AsyncGenerator[bytes]:
    """The chunks of all answers as server-sent events."""
    try:
        async for index, event in events:
            for chunk in chunks.of(event, index * n):
                yield event_bytes(json_bytes(chunk))
        yield event_bytes(b"[DONE]")
    except Exception as error:
        yield event_bytes(json_bytes(error_body(as_api_error(error))))
    finally:
        await events.aclose()
