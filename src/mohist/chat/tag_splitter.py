"""Answers in which tags mark thinking and tool calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from mohist.chat.arguments import MAX_MARKUP_CHARS
from mohist.chat.call_reader import CallReader
from mohist.chat.calls import Schemas
from mohist.chat.delta import TextKind
from mohist.chat.format import ChatFormat
from mohist.chat.splitter import Splitter
from mohist.types import ToolCall

__all__ = ["TagSplitter"]

MOST_UNREADABLE = 32
"""Sections of tool calls that turn out to be text; then none is looked for any more, so that many marks in a
row do not make each of them read all that follows."""

_State = Literal["start", "reasoning", "content", "tools", "done"]


class TagSplitter(Splitter):
    """For answers in which tags mark thinking and tool calls.

    Thinking starts where the prompt opened it, or with a tag as the very first thing. It ends at its closing
    tag or where a tool is called; without either, everything is thinking. Newlines around tags belong to
    neither side. A section of tool calls that cannot be read is text like the text before it; once a call has
    begun in it, only what does not fit any more is text. A call that the answer ends in is cut off: it has
    the arguments that came. Stop strings end the answer; inside thinking they mean nothing.
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
        self._sections = dict(chat_format.tool_sections)
        self._openings = tuple(opening for opening in self._sections if opening)
        self._state: _State = "reasoning" if thinking else "start"
        self._num_newlines = 0
        """Newlines held back: before a tag they are dropped."""
        self._after_tag = thinking
        """Whether newlines are dropped because nothing but a tag came before."""
        self._num_unreadable = 0
        """Sections of tool calls that turned out to be text."""
        self._section = ""
        """The opening tag of the section of tool calls that we are in, ..."""
        self._around: TextKind = "content"
        """... and the kind of text in which it stands."""
        self._reader = CallReader(None, schemas)
        """Of that section."""

    @property
    def thinking(self) -> bool:
        """See `Splitter`."""
        inside = self._state == "tools" and self._around == "reasoning"
        return self._state == "reasoning" or (inside and not self._reader.begun)

    @property
    def undecided(self) -> bool:
        """See `Splitter`."""
        return self._state == "start"

    @property
    def calling(self) -> bool:
        """See `Splitter`."""
        return self._state == "tools"

    def _advance(self, *, final: bool) -> bool:
        match self._state:
            case "start":
                return self._start(final)
            case "reasoning" | "content" as kind:
                return self._text(kind, final)
            case "tools":
                return self._tools(final)
            case "done":
                self._buffer = ""
                return False

    def _end(self) -> None:
        if self._state == "content":
            self._put("content", "\n" * self._num_newlines, self._place - self._num_newlines)

    def _start(self, final: bool) -> bool:
        """Thinking, a frame, a call without marks, or else content, which may begin with a call."""
        text = self._buffer.lstrip()
        if len(self._buffer) - len(text) > MAX_MARKUP_CHARS:
            self._state = "content"
            return True
        bare = self._format.bare_call if self._schemas else ""
        marks = (self._format.think[0], *self._format.frame, *self._openings, bare)
        starts = [tag for tag in marks if tag]
        found = max((tag for tag in starts if text.startswith(tag)), key=len, default=None)
        if any(tag.startswith(text) and tag != found for tag in starts) and not final:
            return False
        if found is None or found in self._openings:
            self._state = "content"
        elif found == self._format.think[0]:
            self._enter("reasoning", text[len(found) :])
        elif found == bare:
            self._enter_section("", "content")
        else:
            self._enter("start", text[len(found) :])
        return True

    def _text(self, kind: TextKind, final: bool) -> bool:
        """Give out thinking or content up to the next tag."""
        ends = (self._format.think[1],) if kind == "reasoning" else (*self._stop, *self._format.frame)
        place, tag = self._next_tag((*ends, *self._openings), final)
        self._emit(kind, self._buffer[:place], self._place)
        if tag is None:
            self._buffer = self._buffer[place:]
            return False
        rest = self._buffer[place + len(tag) :]
        if tag in self._sections:
            self._enter_section(tag, kind)
            self._buffer = rest
        elif kind == "reasoning" or tag not in self._stop:
            self._enter("content", rest)
        else:
            self._put("content", "\n" * self._num_newlines, self._place + place - self._num_newlines)
            self.stop_string = tag
            self._enter("done", "")
        return True

    def _tools(self, final: bool) -> bool:
        """Read a section of tool calls: what is certain of it, or its end."""
        close, think_end = self._sections[self._section], self._format.think[1]
        mention = think_end if self.thinking else ""
        place, tag = self._next_tag([text for text in (close, mention) if text], final)
        self._deltas += self._reader.feed(self._buffer[:place])
        self._buffer = self._buffer[place:]
        if tag is not None and tag == mention and not self.thinking:
            return True  # A call began before it: it is a part of that.
        if tag is None and not final:
            return False
        self._leave_section(close if tag == close else "", mentioned=tag is not None and tag == mention)
        return True

    def _leave_section(self, close: str, *, mentioned: bool) -> None:
        """Go on after a section of tool calls, or with what was none; `close` is the tag at its end, if any.

        `mentioned`: thinking ended before any call had begun, so a tag was only spoken of.
        """
        reader, markup = self._reader, self._format.call_markup
        is_open = not close and markup is not None and markup.ends_with_section
        if close:
            self._deltas += reader.close()
        calls: tuple[ToolCall, ...] | None = None
        if reader.begun and (not reader.rest.strip("] \t\r\n") or (reader.is_cut_off and not close)):
            calls = ()
        elif not (mentioned or is_open or reader.inside_call):
            calls = self._read(reader.rest)
            if not self._section and calls and any(call.name not in self._schemas for call in calls):
                calls = None  # some other JSON that begins alike
        if calls is None:
            self._is_text(reader.rest)
        else:
            self._enter("content", self._buffer[len(close) :])
            self._put_calls(calls)

    def _is_text(self, rest: str) -> None:
        """Go on with what was no call, or no longer one."""
        self._num_unreadable += 1
        if self._num_unreadable == MOST_UNREADABLE:
            self._openings = ()
        self._buffer = rest + self._buffer
        if self._reader.begun:
            self._enter("content", self._buffer)
        else:
            self._emit(self._around, self._section, self._place - len(self._section))
            self._state = self._around

    def _enter_section(self, opening: str, around: TextKind) -> None:
        """Go on inside of a section of tool calls."""
        self._section, self._around, self._state = opening, around, "tools"
        self._reader = CallReader(self._format.call_markup, self._schemas)

    def _enter(self, state: _State, rest: str) -> None:
        """Go on after a tag."""
        self._state, self._buffer = state, rest
        self._num_newlines, self._after_tag = 0, True

    def _emit(self, kind: TextKind, text: str, place: int) -> None:
        """Give out `text` except for newlines that may turn out to stand before a tag."""
        if self._after_tag:
            place += len(text) - len(text.lstrip("\n"))
            text = text.lstrip("\n")
        body = text.rstrip("\n")
        if body:
            self._put(kind, "\n" * self._num_newlines + body, place - self._num_newlines)
            self._num_newlines, self._after_tag = 0, False
        self._num_newlines += len(text) - len(body)
