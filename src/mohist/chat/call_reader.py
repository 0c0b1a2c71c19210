"""A section of tool calls as it comes.

A call is one as soon as its opening, the name of a tool that was offered, and the beginning of its arguments
have been read: up to there everything is held back, since it may turn out to be text. From there on it is a
call, and its arguments are given out as they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mohist.chat.arguments import MAX_MARKUP_CHARS, Arguments, JsonArguments
from mohist.chat.calls import Schemas
from mohist.chat.delta import Delta
from mohist.types import ToolCall

__all__ = ["JSON_CALL", "CallMarkup", "CallReader"]


@dataclass(frozen=True, kw_only=True)
class CallMarkup:
    """How a call is recognised while it is written.

    A pattern that matches a text must match every longer one that begins like it in the same way.
    """

    before: re.Pattern[str]
    """From the section's beginning or the call before up to the arguments, with the group `name` unless that
    is known already, and `id` where calls have one. It looks ahead at the first mark of the arguments."""
    after: re.Pattern[str] | None = None
    """Closes a call after its arguments."""
    arguments: Callable[[Mapping[str, Any]], Arguments] = JsonArguments
    """Makes a reader of arguments; it is given the tool's schema."""
    ends_with_section: bool = False
    """Whether nothing but the end of its section closes a call: without it, one is not complete."""


class CallReader:
    """Reads one section."""

    def __init__(self, markup: CallMarkup | None, schemas: Schemas, *, name: str = "") -> None:
        """`schemas` are those of the tools that were offered, empty where they are not known. `name` is the
        tool's, where it stands before the section."""
        self._markup = markup
        self._schemas = schemas
        self._name = name
        self._arguments: Arguments | None = None
        """Of the call that we are in."""
        self._is_closed = True
        """Whether nothing is missing of the call before."""
        self.begun = False
        """Whether there was a call."""
        self._rest = ""
        """What has been read but not understood, as far as it may still be, ..."""
        self._lost: list[str] = []
        """... and what followed once that was no part of any call for sure."""
        self._is_lost = markup is None

    @property
    def rest(self) -> str:
        """What has been read but not understood."""
        held = "" if self._arguments is None else self._arguments.held
        return "".join((held, self._rest, *self._lost))

    @property
    def inside_call(self) -> bool:
        """Whether a call has begun and not ended."""
        return self._arguments is not None

    @property
    def is_cut_off(self) -> bool:
        """Whether the call that we are in is right as far as it came."""
        return self._arguments is not None and not self._arguments.broken

    def feed(self, text: str) -> Iterator[Delta]:
        """What is certain after `text`. The iterator must be exhausted."""
        if self._is_lost or self._markup is None:
            self._lost.append(text)
            return
        self._rest += text
        while (step := self._step(self._markup)) is not None:
            yield from step
        reads_arguments = self._arguments is not None and not self._arguments.broken
        self._is_lost = not reads_arguments and len(self._rest) >= MAX_MARKUP_CHARS

    def close(self) -> Iterator[Delta]:
        """The section ends. What is left in `rest` then is no part of any call."""
        if self._arguments is not None and not self._arguments.broken:
            last = self._arguments.close()
            if self._arguments.complete:
                self._arguments = None
                yield Delta("tool_call", last, complete=True)

    def _step(self, markup: CallMarkup) -> list[Delta] | None:
        """Read one thing; None if more text is needed for the next."""
        if self._arguments is not None:
            return self._read(self._arguments)
        if not self._is_closed and markup.after is not None:
            after = markup.after.match(self._rest, 0, MAX_MARKUP_CHARS)
            if after is not None:
                self._is_closed, self._rest = True, self._rest[after.end() :]
        found = markup.before.match(self._rest, 0, MAX_MARKUP_CHARS)
        if found is None:
            return None
        known = found.groupdict()
        name = (known.get("name") or self._name).strip()
        if not name or (self._schemas and name not in self._schemas):
            return None
        self.begun, self._is_closed = True, False
        self._rest = self._rest[found.end() :]
        self._arguments = markup.arguments(self._schemas.get(name, {}))
        return [Delta("tool_call", "", ToolCall(name=name, arguments="", id=(known.get("id") or "").strip()))]

    def _read(self, arguments: Arguments) -> list[Delta] | None:
        text, used = arguments.feed(self._rest)
        self._rest = self._rest[used:]
        if arguments.complete:
            self._arguments = None
            return [Delta("tool_call", text, complete=True)]
        return [Delta("tool_call", text)] if text else None


JSON_CALL = CallMarkup(
    before=re.compile(
        r'[\s;,\[]*\{\s*"name"\s*:\s*"(?P<name>[\w.-]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
    ),
    after=re.compile(r'(?:\s*,\s*"\w+"\s*:\s*(?:"[^"\\]*"|[\w.-]+))*\s*\}'),
)
"""Calls that are objects with a name and then arguments. In any other order they are read as a whole."""
