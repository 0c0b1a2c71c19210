"""Answers of OpenAI's Responses API: a stream of numbered events, the last of which holds the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from mohist.serve.answer import Event, Finished, Piece, Started, ToolCallPiece, Usage
from mohist.serve.errors import ApiError
from mohist.serve.openai_shape import receipt_entry, token_entry
from mohist.serve.responses_body import ResponsesBody

__all__ = ["ResponseEvents"]


class ResponseEvents:
    """The events of one streamed response. Its items follow the order in which the model wrote."""

    def __init__(self, started: Started, body: ResponsesBody) -> None:
        self._with_logprobs = body.with_logprobs
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._kind = ""
        """Of the open item: "reasoning", "message", "function_call" or none."""
        self._response = {
            "id": f"resp_{uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "model": started.model,
            "system_fingerprint": started.fingerprint,
            "output": [],
            "usage": None,
            **_repeated(body),
        }

    def first(self) -> Iterator[dict[str, Any]]:
        """What opens the response."""
        yield self._event("response.created", response=dict(self._response))
        yield self._event("response.in_progress", response=dict(self._response))

    def of(self, event: Event) -> Iterator[dict[str, Any]]:
        """The events of one of ours."""
        match event:
            case Piece():
                yield from self._piece(event)
            case ToolCallPiece():
                yield from self._call(event)
            case Finished():
                length = event.reason == "length"
                yield from self._close("incomplete" if length else "completed")
                self._response["output"] = self._items
                self._response["usage"] = _usage(event.usage)
                self._response |= receipt_entry(event.receipt)
                self._response["status"] = "incomplete" if length else "completed"
                if length:
                    self._response["incomplete_details"] = {"reason": "max_output_tokens"}
                yield self._event(f"response.{self._response['status']}", response=self._response)

    def failed(self, error: ApiError) -> Iterator[dict[str, Any]]:
        """The end of a response that could not be completed."""
        self._response["status"] = "failed"
        self._response["error"] = {"code": error.code, "message": error.message}
        self._response["output"] = self._items
        yield self._event("response.failed", response=self._response)

    def _piece(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if piece.kind == "reasoning":
            kind, part, delta = "reasoning", {"type": "reasoning_text", "text": ""}, "reasoning_text"
        else:
            kind, delta = "message", "output_text"
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield from self._open(kind, part)
        open_part = self._items[-1]["content"][0]
        open_part["text"] += piece.text
        more: dict[str, Any] = {}
        if kind == "message":
            more["logprobs"] = [token_entry(info) for info in piece.tokens] if self._with_logprobs else []
            open_part["logprobs"] += more["logprobs"]
        yield self._event(f"response.{delta}.delta", **self._place(), delta=piece.text, **more)

    def _open(self, kind: str, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._kind == kind:
            return
        yield from self._close()
        self._kind = kind
        item: dict[str, Any] = {
            "id": f"{_PREFIXES[kind]}_{uuid4().hex}",
            "type": kind,
            "status": "in_progress",
        }
        item |= {"summary": []} if kind == "reasoning" else {"role": "assistant"}
        self._items.append({**item, "content": [part]})
        empty = {**item, "content": []}
        yield self._event("response.output_item.added", output_index=len(self._items) - 1, item=empty)
        yield self._event("response.content_part.added", **self._place(), part=dict(part))

    def _close(self, status: str = "completed") -> Iterator[dict[str, Any]]:
        if not self._kind:
            return
        item = self._items[-1]
        if self._kind == "function_call":
            yield from self._close_call("incomplete")
            return
        part = item["content"][0]
        if self._kind == "message":
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._event("response.output_text.done", **self._place(), **done)
        else:
            yield self._event("response.reasoning_text.done", **self._place(), text=part["text"])
        yield self._event("response.content_part.done", **self._place(), part=dict(part))
        item["status"] = status
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)
        self._kind = ""

    def _call(self, piece: ToolCallPiece) -> Iterator[dict[str, Any]]:
        if piece.begins is not None:
            yield from self._close()
            self._kind = "function_call"
            item = {
                "id": f"fc_{uuid4().hex}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": piece.begins.id,
                "name": piece.begins.name,
                "arguments": "",
            }
            self._items.append(item)
            index = len(self._items) - 1
            yield self._event("response.output_item.added", output_index=index, item=dict(item))
        if piece.text:
            self._items[-1]["arguments"] += piece.text
            yield self._event(
                "response.function_call_arguments.delta", **self._item_place(), delta=piece.text
            )
        if piece.complete:
            yield from self._close_call("completed")

    def _close_call(self, status: str) -> Iterator[dict[str, Any]]:
        item = self._items[-1]
        item["status"] = status
        yield self._event(
            "response.function_call_arguments.done",
            **self._item_place(),
            name=item["name"],
            arguments=item["arguments"],
        )
        yield self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)
        self._kind = ""

    def _item_place(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}

    def _place(self) -> dict[str, Any]:
        return {**self._item_place(), "content_index": 0}

    def _event(self, kind: str, **content: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._number, **content}
        self._number += 1
        return event


_PREFIXES = {"reasoning": "rs", "message": "msg"}


def _repeated(body: ResponsesBody) -> dict[str, Any]:
    """What a response says of its request."""
    asked = body.model_dump(by_alias=True, exclude_none=True)
    text = asked.get("text") or {}
    return {
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **(asked.get("reasoning") or {})},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": asked.get("tool_choice", "auto"),
        "tools": asked.get("tools", []),
        "top_p": body.top_p,
        "truncation": "disabled",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
