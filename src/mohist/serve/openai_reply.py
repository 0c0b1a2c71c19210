"""Replies in OpenAI's dialect for the OpenAPI document; `openai_shape` and `openai_text` write them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mohist.cost import Prices

__all__ = ["ChatReply", "ErrorBody", "ModelEntry", "ModelList", "TextReply", "documented"]


class ErrorEntry(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorEntry


class PromptDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionDetails(BaseModel):
    """Of the answer's tokens."""

    reasoning_tokens: int


class UsageEntry(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class SpelledToken(BaseModel):
    """A token, or a piece of it that is no whole character, with its logprob."""

    token: str
    logprob: float | None
    bytes: list[int]


class TokenEntry(SpelledToken):
    """A token with its alternatives."""

    top_logprobs: list[SpelledToken]


class ChatLogprobs(BaseModel):
    """Of answer and thinking."""

    content: list[TokenEntry]
    reasoning_content: list[TokenEntry]


class FunctionCall(BaseModel):
    """A call: the function's name and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCallEntry(BaseModel):
    """A call with its id."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class ChatMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallEntry] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class Reply(BaseModel):
    """What all replies begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: UsageEntry
    receipt: dict[str, Any] | None = None
    """What is needed to replay the answer, where it was asked for."""


class ChatReply(Reply):
    """A whole answer."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextLogprobs(BaseModel):
    """Of the tokens of a text, in the older form."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the texts."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextReply(Reply):
    """A whole completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ModelEntry(BaseModel):
    """A model or alias. What is below `prices` is there for loaded models of this machine."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    local: bool
    """Whether it runs here: then its tokens can be counted, and its answers replayed."""
    alias_of: str | None = None
    prices: Prices | None = None
    """What tokens cost; absent where they cost nothing."""
    context_length: int | None = None
    """Most tokens of prompt and answer together."""
    thinking: Literal["switch", "always", "unclear", "never"] | None = None
    """What a request can do about thinking."""
    system_fingerprint: str | None = None


class ModelList(BaseModel):
    """All models and aliases."""

    object: Literal["list"]
    data: list[ModelEntry]


_EVENT = {
    "description": "Each event of the stream; `data` is JSON, or [DONE] at the end.",
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
"""In OpenAPI 3.1 the schema of a stream is that of its events."""


def documented(reply: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The responses of a route for the OpenAPI document."""
    errors = {
        400: "The request is wrong; `param` names the field",
        401: "No valid API key",
        403: "Not allowed",
        404: "No such thing",
        413: "The body is too large",
        429: "Over a limit of the key; `Retry-After` says when to come back",
        500: "The server failed",
        503: "No place for the request now; `Retry-After` says when to come back",
    }
    ok: dict[str, Any] = {"model": reply}
    if streams:
        ok["content"] = {"text/event-stream": {"schema": _EVENT}}
    return {
        200: ok,
        **{code: {"model": ErrorBody, "description": text} for code, text in errors.items()},
    }
