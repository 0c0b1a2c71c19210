"""Answers in Anthropic's dialect: a stream of events, the message that they add up to, and errors."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from pydantic_core import from_json

from mohist.serve.answer import Event, Finished, Piece, Started, ToolCallPiece, Usage
from mohist.serve.errors import ApiError
from mohist.serve.openai_shape import receipt_entry

__all__ = ["MessageEvents", "error_body", "summed"]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def error_body(error: ApiError) -> dict[str, Any]:
    """An error as the API tells it."""
    kind = _ERROR_TYPES.get(error.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}}


class MessageEvents:
    """The events of one streamed message. Its blocks follow the order in which the model wrote."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self._index = -1
        self._kind = ""
        """Of the open block; empty if none is."""
        self._thinking = ""

    def first(self) -> Iterator[dict[str, Any]]:
        """What opens the message."""
        usage = _usage(Usage(prompt_tokens=self._started.prompt_tokens))
        message = {
            "id": f"msg_{uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": self._started.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def of(self, event: Event) -> Iterator[dict[str, Any]]:
        """The events of one of ours."""
        match event:
            case Piece(kind="reasoning"):
                yield from self._open("thinking", {"thinking": "", "signature": ""})
                self._thinking += event.text
                yield self._delta("thinking_delta", thinking=event.text)
            case Piece():
                yield from self._open("text", {"text": ""})
                yield self._delta("text_delta", text=event.text)
            case ToolCallPiece():
                yield from self._call(event)
            case Finished():
                yield from self._close()
                yield from self._last(event)

    def _call(self, piece: ToolCallPiece) -> Iterator[dict[str, Any]]:
        if piece.begins is not None:
            yield from self._close()
            call = piece.begins
            yield from self._open("tool_use", {"id": call.id, "name": call.name, "input": {}})
        if piece.text:
            yield self._delta("input_json_delta", partial_json=piece.text)
        if piece.complete:
            yield from self._close()

    def _last(self, event: Finished) -> Iterator[dict[str, Any]]:
        reason = _STOP_REASONS[event.reason] if event.stop is None else "stop_sequence"
        delta = {"stop_reason": reason, "stop_sequence": event.stop}
        yield {
            "type": "message_delta",
            "delta": delta,
            "usage": _usage(event.usage),
            **receipt_entry(event.receipt),
        }
        yield {"type": "message_stop"}

    def _open(self, kind: str, empty: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._kind == kind:
            return
        yield from self._close()
        self._kind = kind
        self._index += 1
        block = {"type": kind, **empty}
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _close(self) -> Iterator[dict[str, Any]]:
        if not self._kind:
            return
        if self._kind == "thinking":
            # Clients expect a signature and send it back. This one is a digest, and nothing is proven by it.
            written = self._thinking.encode("utf-8", "replace")
            yield self._delta("signature_delta", signature=blake2b(written, digest_size=16).hexdigest())
            self._thinking = ""
        yield {"type": "content_block_stop", "index": self._index}
        self._kind = ""

    def _delta(self, kind: str, **content: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": {"type": kind, **content}}


def summed(message: dict[str, Any] | None, event: dict[str, Any]) -> dict[str, Any]:
    """The message so far with one more event, as clients add them up."""
    if message is None:
        return event["message"]
    blocks = message["content"]
    match event["type"]:
        case "content_block_start":
            blocks.append(event["content_block"])
        case "content_block_delta":
            block, delta = blocks[event["index"]], event["delta"]
            if "partial_json" in delta:
                block["json"] = block.get("json", "") + delta["partial_json"]
            for name in ("text", "thinking", "signature"):
                block |= {name: block[name] + delta[name]} if name in delta else {}
        case "content_block_stop" if "json" in blocks[event["index"]]:
            # Of a call that was cut off there is as much as is certain, as in Anthropic's own client.
            text = blocks[event["index"]].pop("json").encode("utf-8", "replace")
            blocks[event["index"]]["input"] = from_json(text, allow_partial=True)
        case "message_delta":
            message |= {**event["delta"], "usage": event["usage"], **receipt_entry(event.get("receipt"))}
    return message


def _usage(usage: Usage) -> dict[str, Any]:
    """Tokens. Those of the prompt that the cache held are counted apart from the others."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }
