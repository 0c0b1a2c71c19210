"""Replies of the Responses API for the OpenAPI document; `responses_shape` writes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from mohist.serve.openai_reply import PromptDetails as InputDetails
from mohist.serve.openai_reply import TokenEntry

__all__ = ["ResponseReply"]


class OutputText(BaseModel):
    """The answer's text."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenEntry]


class MessageItem(BaseModel):
    """The answer."""

    id: str
    type: Literal["message"]
    status: Literal["completed", "incomplete"]
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(BaseModel):
    """Thinking."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(BaseModel):
    """What was thought before the answer."""

    id: str
    type: Literal["reasoning"]
    status: Literal["completed", "incomplete"]
    summary: list[Any]
    content: list[ReasoningText]


class CallItem(BaseModel):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: Literal["completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


class OutputDetails(BaseModel):
    """Of the answer's tokens."""

    reasoning_tokens: int


class UsageEntry(BaseModel):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseReply(BaseModel):
    """A whole response; it repeats what was asked."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    model: str
    system_fingerprint: str
    output: list[MessageItem | ReasoningItem | CallItem]
    usage: UsageEntry
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, Any]
    store: Literal[False]
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_p: float | None
    truncation: Literal["disabled"]
    receipt: dict[str, Any] | None = None
    """Where it was asked for."""
