"""POST /tokenize, /detokenize, /count_tokens: a model's tokenizer and chat template. Also under /v1."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from mohist.errors import ChatError
from mohist.serve.errors import invalid
from mohist.serve.local import LocalModel
from mohist.serve.openai_ask import chat_ask, ignored_header
from mohist.serve.openai_body import Body, ChatBody, MessageBody, TemplateSwitches, ThinkingBody, ToolBody
from mohist.serve.openai_check import check_chat
from mohist.serve.openai_reply import documented
from mohist.serve.openai_shape import error_body
from mohist.serve.prompt import chat_prompt
from mohist.serve.routes import error_route, principal
from mohist.serve.service import Service
from mohist.serve.settings import LimitsConfig
from mohist.serve.wire import JsonReply

__all__ = ["routes"]


class TokenizeBody(Body):
    """A text (`prompt`, or `content` as llama.cpp calls it), or a conversation as a chat request has it."""

    model: str = "default"
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool = True
    """For a text: put the bos token before it, where the model expects one."""
    messages: list[MessageBody] | None = None
    tools: list[ToolBody] | None = None
    thinking: ThinkingBody | None = None
    chat_template_kwargs: TemplateSwitches | None = None
    return_token_strs: bool = False


class DetokenizeBody(Body):
    """Tokens."""

    model: str = "default"
    tokens: list[Annotated[int, Field(ge=0)]]


class CountReply(BaseModel):
    """How many tokens there are, and may be."""

    count: int
    max_model_len: int
    """Most tokens of prompt and answer together."""


class TokensReply(CountReply):
    """The tokens."""

    tokens: list[int]
    token_strs: list[str] | None = None


class TextReply(BaseModel):
    """The text that tokens spell."""

    prompt: str


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=error_route(error_body), tags=["tokens"])

    async def tokenize(body: TokenizeBody, request: Request) -> Response:
        async with service.borrow(body.model, principal(request)) as model:
            tokens = await asyncio.to_thread(tokens_of, model, body, service.limits)
            reply = {"count": len(tokens), "max_model_len": model.llm.engine.capacity, "tokens": tokens}
            if body.return_token_strs:
                reply["token_strs"] = await asyncio.to_thread(token_texts, model, tokens)
        return JsonReply(reply, headers=ignored_header(body))

    async def count(body: TokenizeBody, request: Request) -> Response:
        async with service.borrow(body.model, principal(request)) as model:
            tokens = await asyncio.to_thread(tokens_of, model, body, service.limits)
            reply = {"count": len(tokens), "max_model_len": model.llm.engine.capacity}
        return JsonReply(reply, headers=ignored_header(body))

    async def detokenize(body: DetokenizeBody, request: Request) -> Response:
        async with service.borrow(body.model, principal(request)) as model:
            size = model.llm.decoder.config.vocab_size
            outside = next((token for token in body.tokens if token >= size), None)
            if outside is not None:
                raise invalid(f"token {outside} is outside the vocabulary 0..{size - 1}", "tokens")
            text = await asyncio.to_thread(model.llm.chat.tokenizer.decode, body.tokens)
        return JsonReply({"prompt": text}, headers=ignored_header(body))

    for prefix in ("/v1", ""):
        for path, handler, reply in (
            ("/tokenize", tokenize, TokensReply),
            ("/count_tokens", count, CountReply),
            ("/detokenize", detokenize, TextReply),
        ):
            router.add_api_route(
                prefix + path,
                handler,
                methods=["POST"],
                response_class=JsonReply,
                responses=documented(reply),
            )
    return router


def token_texts(model: LocalModel, tokens: list[int]) -> list[str]:
    """What each token spells by itself."""
    return [model.llm.chat.tokenizer.decode([token]) for token in tokens]


def tokens_of(model: LocalModel, body: TokenizeBody, limits: LimitsConfig) -> list[int]:
    """The tokens of a text or of a conversation's prompt. Raises ApiError."""
    given = [one for one in (body.prompt, body.content, body.messages) if one is not None]
    if len(given) != 1:
        raise invalid("give exactly one of prompt, content and messages", "prompt")
    chat = model.llm.chat
    try:
        if body.messages is None:
            text = body.content if body.prompt is None else body.prompt
            assert text is not None
            tokenizer = chat.tokenizer
            return (
                tokenizer.prompt(text) if body.add_special_tokens else tokenizer.encode(text, special=False)
            )
        asked = ChatBody(
            messages=body.messages,
            tools=body.tools,
            thinking=body.thinking,
            chat_template_kwargs=body.chat_template_kwargs,
        )
        check_chat(asked, limits)
        return chat_prompt(chat, chat_ask(asked))
    except ChatError as error:
        raise invalid(error, "prompt" if body.messages is None else "messages") from error
