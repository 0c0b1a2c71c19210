"""What comes back for an `Ask`: events, and the whole answer, which is nothing but their sum.

Streams and whole answers agree byte for byte because dialects build both from the same events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from mohist.chat.delta import TextKind
from mohist.types import ToolCall

__all__ = [
    "Answer",
    "Choice",
    "Event",
    "FinishReason",
    "Finished",
    "Piece",
    "Started",
    "TokenInfo",
    "ToolCallPiece",
    "Usage",
    "start",
    "whole",
]

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenInfo:
    """A token of the answer, with its logprob under the model's own distribution."""

    token: int
    data: bytes
    """What it spells, maybe part of a character."""
    logprob: float | None
    """None for the first token of an echoed prompt, which nothing predicts."""
    place: int = 0
    """Where in the answer, tags and an echoed prompt included, its text begins: a number of characters."""
    top: tuple[tuple[bytes, float], ...] = ()
    """What the likeliest tokens spell, with their logprobs, the likeliest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that an answer cost, all choices together."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens that came from the prefix cache."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Completion tokens that were thinking, its tags included."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            **{
                entry.name: getattr(self, entry.name) + getattr(other, entry.name)
                for entry in dataclasses.fields(self)
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The request is lined up. Its first event."""

    model: str
    """The model itself, not the alias that was asked for."""
    fingerprint: str
    """Names weights, kernels and format: equal ones give equal answers."""
    thinks: bool
    """Whether the prompt opened thinking: then the answer begins with it."""
    prompt_tokens: int
    seed: int
    ignored: tuple[str, ...] = ()
    """Fields of the request that have no effect with this model."""


class Piece(NamedTuple):
    """Text of one choice."""

    choice: int
    kind: TextKind
    text: str
    tokens: tuple[TokenInfo, ...] = ()
    """Those that wrote it, where logprobs were asked for. A token is listed once, where its text begins."""
    num_tokens: int = 0
    """Tokens that the choice has cost so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCallPiece:
    """A piece of a call that one choice asks for. Those of one call follow one another."""

    choice: int
    index: int
    """Among the calls of the choice."""
    text: str
    """Of its arguments, which all pieces together are."""
    begins: ToolCall | None = None
    """With the first piece: the call without its arguments."""
    complete: bool = False
    """Whether its arguments end here. Those of a call that is cut off or breaks never do."""
    num_tokens: int = 0
    """Tokens that the choice has cost so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One choice is complete. `usage` is its own; the prompt is counted with choice 0."""

    choice: int
    reason: FinishReason
    usage: Usage
    stop: str | None = None
    """The stop string that ended it, if one did."""
    receipt: Mapping[str, Any] | None = None
    """Of all choices, as JSON data. With the last one, where it was asked for."""


Event = Started | Piece | ToolCallPiece | Finished


@dataclass(slots=True)
class Choice:
    """One of the answers, as far as it came."""

    content: str = ""
    reasoning: str | None = None
    """None: there was no thinking."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    content_tokens: list[TokenInfo] = field(default_factory=list)
    reasoning_tokens: list[TokenInfo] = field(default_factory=list)
    finished: Finished | None = None

    def add(self, event: Piece | ToolCallPiece | Finished) -> None:
        """Take the next event of this choice."""
        match event:
            case Piece(kind="content"):
                self.content += event.text
                self.content_tokens += event.tokens
            case Piece():
                self.reasoning = (self.reasoning or "") + event.text
                self.reasoning_tokens += event.tokens
            case ToolCallPiece():
                if event.begins is not None:
                    self.tool_calls.append(event.begins)
                call = self.tool_calls[event.index]
                self.tool_calls[event.index] = replace(call, arguments=call.arguments + event.text)
            case Finished():
                self.finished = event


@dataclass(slots=True)
class Answer:
    """All choices of one request."""

    started: Started
    choices: list[Choice]

    @property
    def usage(self) -> Usage:
        """Of all finished choices."""
        return sum((choice.finished.usage for choice in self.choices if choice.finished), Usage())

    @property
    def receipt(self) -> Mapping[str, Any] | None:
        """Where it was asked for."""
        finished = (choice.finished for choice in self.choices)
        return next((one.receipt for one in finished if one and one.receipt), None)


async def start(events: AsyncGenerator[Event]) -> Started:
    """The first event. What is wrong with the request is raised here."""
    started = await anext(events)
    assert isinstance(started, Started)
    return started


async def whole(events: AsyncIterable[Event], started: Started, n: int) -> Answer:
    """Add up the events that follow `started`, until they end."""
    answer = Answer(started, [Choice() for _ in range(n)])
    async for event in events:
        assert not isinstance(event, Started), "an answer starts once"
        answer.choices[event.choice].add(event)
    return answer
