"""Replies in Anthropic's dialect for the OpenAPI document; `anthropic_shape` writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mohist.serve.openai_reply import documented as openai_documented

__all__ = ["CountReply", "MessageReply", "documented"]


class ErrorEntry(BaseModel):
    """What is wrong."""

    type: str
    message: str


class ErrorBody(BaseModel):
    """The body of every error but those of the gate, which are in OpenAI's shape."""

    type: Literal["error"]
    error: ErrorEntry


class TextBlock(BaseModel):
    """Text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(BaseModel):
    """Thinking, with a digest of it."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class ToolUseBlock(BaseModel):
    """A call."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class UsageEntry(BaseModel):
    """Tokens."""

    input_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int
    output_tokens: int


class MessageReply(BaseModel):
    """A whole message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: UsageEntry
    receipt: dict[str, Any] | None = None
    """Where it was asked for."""


class CountReply(BaseModel):
    """How many tokens the prompt has."""

    input_tokens: int


def documented(reply: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The responses of a route for the OpenAPI document."""
    found = openai_documented(reply, streams=streams)
    gate = (401, 403, 413)
    return {
        code: one if code == 200 or code in gate else {**one, "model": ErrorBody}
        for code, one in found.items()
    }
