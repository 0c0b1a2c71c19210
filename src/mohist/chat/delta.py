"""Pieces of an answer, in the order in which they become certain."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from mohist.types import ToolCall

__all__ = ["Delta", "DeltaKind", "TextKind", "calls_in", "whole_call"]

TextKind = Literal["content", "reasoning"]
DeltaKind = TextKind | Literal["tool_call"]


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. Those of one tool call follow one another; their texts are its arguments."""

    kind: DeltaKind
    text: str
    begins: ToolCall | None = None
    """The call that begins here, without its arguments."""
    complete: bool = False
    """Whether the call's arguments end here. Those of a call that is cut off or breaks never do."""
    place: int = field(default=0, compare=False)
    """Where in the answer, tags included, the text begins; 0 for tool calls."""


def whole_call(call: ToolCall) -> tuple[Delta, Delta]:
    """A call that became certain at once."""
    begins = replace(call, arguments="")
    return Delta("tool_call", "", begins), Delta("tool_call", call.arguments, complete=True)


def calls_in(deltas: Iterable[Delta]) -> tuple[ToolCall, ...]:
    """The calls of an answer; one that was cut off has the arguments that came."""
    begun: list[tuple[ToolCall, list[str]]] = []
    for delta in deltas:
        if delta.begins is not None:
            begun.append((delta.begins, []))
        if delta.kind == "tool_call":
            begun[-1][1].append(delta.text)
    return tuple(replace(call, arguments="".join(texts)) for call, texts in begun)
