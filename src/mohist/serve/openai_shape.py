"""Answers in OpenAI's and DeepSeek's dialect: whole, in chunks, and errors."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from mohist.serve.answer import (
    Answer,
    Choice,
    Event,
    Finished,
    Piece,
    Started,
    TokenInfo,
    ToolCallPiece,
    Usage,
)
from mohist.serve.errors import ApiError
from mohist.types import ToolCall

__all__ = [
    "ChatChunks",
    "ChunkFrame",
    "chat_completion",
    "error_body",
    "head",
    "receipt_entry",
    "token_entry",
    "usage_entry",
]

LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON has not."""


def error_body(error: ApiError) -> dict[str, Any]:
    """An error as both APIs tell it."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def usage_entry(usage: Usage) -> dict[str, Any]:
    """What an answer cost, under the names of both APIs."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_cache_hit_tokens": usage.cached_tokens,
        "prompt_cache_miss_tokens": usage.prompt_tokens - usage.cached_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def receipt_entry(receipt: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is needed to replay the answer, where it was asked for."""
    return {} if receipt is None else {"receipt": receipt}


def token_entry(info: TokenInfo) -> dict[str, Any]:
    """A token with its logprob and its alternatives."""
    return {
        **_spelled(info.data, info.logprob),
        "top_logprobs": [_spelled(data, logprob) for data, logprob in info.top],
    }


def _spelled(data: bytes, logprob: float | None) -> dict[str, Any]:
    return {
        "token": data.decode("utf-8", "replace"),
        "logprob": None if logprob is None else max(logprob, LEAST_LOGPROB),
        "bytes": list(data),
    }


def call_entry(call: ToolCall) -> dict[str, Any]:
    """A call, or the beginning of one."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def head(started: Started, prefix: str, object: str) -> dict[str, Any]:
    """What every part of one response begins with."""
    return {
        "id": f"{prefix}-{uuid4().hex}",
        "object": object,
        "created": int(time.time()),
        "model": started.model,
        "system_fingerprint": started.fingerprint,
    }


def chat_completion(answer: Answer, *, with_logprobs: bool) -> dict[str, Any]:
    """A whole answer."""
    choices = [_chat_choice(i, choice, with_logprobs) for i, choice in enumerate(answer.choices)]
    return {
        **head(answer.started, "chatcmpl", "chat.completion"),
        "choices": choices,
        "usage": usage_entry(answer.usage),
        **receipt_entry(answer.receipt),
    }


def _chat_choice(index: int, choice: Choice, with_logprobs: bool) -> dict[str, Any]:
    assert choice.finished is not None
    calls = [call_entry(call) for call in choice.tool_calls]
    message = {
        "role": "assistant",
        "content": choice.content if choice.content or not calls else None,
        **_reasoning(choice.reasoning),
        **({"tool_calls": calls} if calls else {}),
    }
    logprobs = {
        "content": [token_entry(info) for info in choice.content_tokens],
        "reasoning_content": [token_entry(info) for info in choice.reasoning_tokens],
    }
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs if with_logprobs else None,
        "finish_reason": choice.finished.reason,
    }


def _reasoning(text: str | None) -> dict[str, Any]:
    """Thinking under both of its names."""
    return {} if text is None else {"reasoning_content": text, "reasoning": text}


class ChunkFrame:
    """What the chunks of one response share: their head, and the usage, which the last of them tells."""

    def __init__(self, head: dict[str, Any], num_choices: int, include_usage: bool) -> None:
        self._head = head
        self._num_left = num_choices
        self._include_usage = include_usage
        self._usage = Usage()

    def end_choice(self, usage: Usage) -> None:
        """Take note that a choice has ended, and what it cost: one more chunk comes of it."""
        self._num_left -= 1
        self._usage += usage

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """The chunk that says this of a choice."""
        chunk = {**self._head, "choices": [choice]}
        if not self._num_left:
            chunk["usage"] = usage_entry(self._usage)
        elif self._include_usage:
            chunk["usage"] = None
        return chunk


class ChatChunks:
    """The chunks of one streamed answer."""

    def __init__(self, started: Started, n: int, *, with_logprobs: bool, include_usage: bool) -> None:
        self._frame = ChunkFrame(head(started, "chatcmpl", "chat.completion.chunk"), n, include_usage)
        self._thinks = started.thinks
        self._with_logprobs = with_logprobs

    def first(self, choice: int) -> dict[str, Any]:
        """The chunk that opens a choice."""
        text = self._text(None, "") if self._thinks else self._text("")
        return self._chunk(choice, {"role": "assistant", **text})

    def of(self, event: Event) -> Iterable[dict[str, Any]]:
        """The chunks of one event."""
        match event:
            case Piece(kind="content"):
                yield self._chunk(event.choice, self._text(event.text), event)
            case Piece():
                yield self._chunk(event.choice, self._text(None, event.text), event)
            case ToolCallPiece():
                yield from self._call(event)
            case Finished():
                self._frame.end_choice(event.usage)
                last = self._chunk(event.choice, self._text(""), reason=event.reason)
                yield {**last, **receipt_entry(event.receipt)}

    def _text(self, content: str | None, reasoning: str | None = None) -> dict[str, Any]:
        """A delta of text. Where there is thinking, both kinds are named, and one of them is null."""
        both = self._thinks or reasoning is not None
        named = {"reasoning_content": reasoning, "reasoning": reasoning} if both else {}
        return {"content": content, **named}

    def _call(self, event: ToolCallPiece) -> Iterable[dict[str, Any]]:
        if event.begins is not None:
            opening = {**call_entry(event.begins), "index": event.index}
            yield self._chunk(event.choice, {"tool_calls": [opening]})
        if event.text:
            more = {"index": event.index, "function": {"arguments": event.text}}
            yield self._chunk(event.choice, {"tool_calls": [more]})

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        piece: Piece | None = None,
        *,
        reason: str | None = None,
    ) -> dict[str, Any]:
        logprobs = None
        if piece is not None and self._with_logprobs:
            kind = "content" if piece.kind == "content" else "reasoning_content"
            logprobs = {
                "content": [],
                "reasoning_content": [],
                kind: [token_entry(info) for info in piece.tokens],
            }
        return self._frame.chunk(
            {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        )
