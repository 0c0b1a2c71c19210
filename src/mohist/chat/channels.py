"""Answers made of messages with headers: OpenAI's harmony.

<|channel|>analysis<|message|>thoughts<|end|><|start|>assistant<|channel|>final<|message|>answer
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from mohist.chat.arguments import MAX_MARKUP_CHARS
from mohist.chat.call_reader import CallMarkup, CallReader
from mohist.chat.calls import Schemas, tool_call_from_json
from mohist.chat.delta import TextKind
from mohist.chat.format import ChatFormat
from mohist.chat.splitter import Splitter

__all__ = ["ChannelSplitter"]

_THINKING = "analysis"
_BODY = CallMarkup(before=re.compile(r"\s*(?=\{)"))
"""A message for a tool is nothing but arguments."""


class ChannelSplitter(Splitter):
    """For formats with `channels`.

    A message on the analysis channel is thinking, one that is for a tool is a call, any other is content;
    two of a kind are told apart by an empty line. A message that is for a tool but begins no JSON object is
    content, and so are text without any header and what follows arguments or does not fit them.
    """

    def __init__(
        self,
        chat_format: ChatFormat,
        *,
        thinking: bool,
        stop: Iterable[str],
        schemas: Schemas,
        parallel: bool = True,
    ) -> None:
        super().__init__(chat_format, stop=stop, schemas=schemas, parallel=parallel)
        assert chat_format.channels is not None
        self._channels = chat_format.channels
        self._ends = (*self._channels.ends, *self._channels.starts)
        self._state: Literal["header", "reasoning", "content", "tool", "done"] = (
            "reasoning" if thinking else "header"
        )
        self._tool = ""
        """The tool that the message is for, ..."""
        self._reader = CallReader(None, schemas)
        """... and what reads it."""
        self._given: set[TextKind] = set()
        """Kinds of text that earlier messages had."""
        self._is_first_piece = True

    @property
    def thinking(self) -> bool:
        """See `Splitter`."""
        return self._state == "reasoning"

    @property
    def undecided(self) -> bool:
        """See `Splitter`."""
        return self._state == "header"

    @property
    def calling(self) -> bool:
        """See `Splitter`."""
        return self._state == "tool"

    def _advance(self, *, final: bool) -> bool:
        match self._state:
            case "header":
                return self._header()
            case "reasoning" | "content" as kind:
                return self._text(kind, final)
            case "tool":
                return self._call(final)
            case "done":
                self._buffer = ""
                return False

    def _end(self) -> None:
        """A header that never came to an end is text, if it has no mark of a header."""
        marks = (*self._ends, self._channels.body)
        if self._state == "header" and not any(mark in self._buffer for mark in marks):
            self._emit("content", self._buffer, self._place)

    def _header(self) -> bool:
        """Find out what the next message is."""
        body = self._channels.body
        place = self._buffer.find(body, 0, MAX_MARKUP_CHARS + len(body))
        if place < 0:
            return len(self._buffer) >= MAX_MARKUP_CHARS + len(body) and self._without_header()
        header, rest = self._buffer[:place], self._buffer[place + len(body) :]
        channel, tool = self._format.parse_header(header)
        self._tool = tool if self._format.calls is not None else ""
        self._state = "tool" if self._tool else "reasoning" if channel == _THINKING else "content"
        self._reader = CallReader(_BODY, self._schemas, name=self._tool)
        self._buffer, self._is_first_piece = rest, True
        return True

    def _without_header(self) -> Literal[True]:
        """Go on with text that no header came before; a mark that would begin one means nothing."""
        mark = next((mark for mark in self._ends if self._buffer.startswith(mark)), "")
        self._state, self._buffer, self._is_first_piece = "content", self._buffer[len(mark) :], True
        return True

    def _text(self, kind: TextKind, final: bool) -> bool:
        stop = self._stop if kind == "content" else ()
        place, tag = self._next_tag((*self._ends, *stop), final)
        self._emit(kind, self._buffer[:place], self._place)
        if tag is None:
            self._buffer = self._buffer[place:]
            return False
        if tag in stop:
            self._state, self.stop_string = "done", tag
        else:
            self._leave(place, tag)
            self._given.add(kind)
        return True

    def _call(self, final: bool) -> bool:
        place, tag = self._next_tag(self._ends, final)
        self._deltas += self._reader.feed(self._buffer[:place])
        self._buffer = self._buffer[place:]
        if tag is None and not final:
            return False
        body, begun = self._reader.rest, self._reader.begun
        start = self._place - len(body)
        self._leave(0, tag or "")
        try:
            if not begun:
                self._put_calls([tool_call_from_json(self._tool, body)])
                return True
        except (ValueError, RecursionError):  # no JSON object, or one nested too deeply
            pass
        if body.strip() or not begun:
            self._emit("content", body, start)
            self._given.add("content")
        return True

    def _leave(self, place: int, tag: str) -> None:
        """Go on after a message; a text that begins the next header is part of that."""
        begin = place if tag in self._channels.starts else place + len(tag)
        self._state, self._buffer = "header", self._buffer[begin:]

    def _emit(self, kind: TextKind, text: str, place: int) -> None:
        if text and self._is_first_piece and kind in self._given:
            self._put(kind, "\n\n", place - 2)
        self._is_first_piece = self._is_first_piece and not text
        self._put(kind, text, place)
