"""Text of an answer to answer, thinking and tool calls, whatever the pieces in which it arrives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from mohist.chat.calls import Schemas
from mohist.chat.delta import Delta, TextKind, whole_call
from mohist.chat.format import ChatFormat
from mohist.chat.partial import partial_tag
from mohist.types import ToolCall

__all__ = ["Splitter"]


class Splitter(ABC):
    """Cuts text into deltas. It holds back what may still become a tag."""

    length: int = 0
    """Characters of the answer so far, tags included."""
    stop_string: str | None = None
    """The stop string that ended the answer."""

    def __init__(
        self, chat_format: ChatFormat, *, stop: Iterable[str], schemas: Schemas, parallel: bool
    ) -> None:
        """`parallel`: the answer may go on after a call."""
        self._format = chat_format
        self._parallel = parallel
        self._called = False
        """Whether a call ended the answer."""
        self._schemas = schemas
        self._stop = tuple(text for text in stop if text)
        self._buffer = ""
        """The end of the answer so far, still to be cut."""
        self._deltas: list[Delta] = []

    @property
    def done(self) -> bool:
        """Whether a stop string came, or the one call that there may be: what follows is ignored."""
        return self._called or self.stop_string is not None

    @property
    @abstractmethod
    def thinking(self) -> bool:
        """Whether text that came now would be thinking, as far as is known."""

    @property
    @abstractmethod
    def undecided(self) -> bool:
        """Whether nothing has come that tells what kind of text the answer begins with."""

    @property
    @abstractmethod
    def calling(self) -> bool:
        """Whether text that came now would be part of calls, as far as is known."""

    def feed(self, text: str) -> list[Delta]:
        """What is certain after `text`."""
        if self._called:
            return []
        self._buffer += text
        self.length += len(text)
        while self._advance(final=False):
            pass
        return self._take()

    def finish(self) -> list[Delta]:
        """The rest: what was held back is text after all."""
        if self._called:
            return []
        while self._advance(final=True):
            pass
        self._end()
        return self._take()

    @abstractmethod
    def _advance(self, *, final: bool) -> bool:
        """Move on by one tag if the buffer has one; False when there is nothing more to do."""

    @abstractmethod
    def _end(self) -> None:
        """Give out what `_advance` still held back."""

    @property
    def _place(self) -> int:
        """Where in the answer the buffer begins."""
        return self.length - len(self._buffer)

    def _put(self, kind: TextKind, text: str, place: int) -> None:
        if text:
            self._deltas.append(Delta(kind, text, place=place))

    def _put_calls(self, calls: Iterable[ToolCall]) -> None:
        self._deltas += [delta for call in calls for delta in whole_call(call)]

    def _read(self, section: str) -> tuple[ToolCall, ...] | None:
        try:
            return self._format.parse_tools(section, self._schemas)
        except (ValueError, RecursionError):  # not what the format asks for, or JSON nested too deeply
            return None

    def _next_tag(self, tags: Sequence[str], final: bool) -> tuple[int, str | None]:
        """The place of the first of `tags`, and the tag; or up to where there is none for sure, and None."""
        # Where two tags begin at one place, the longer one is meant.
        found = [(place, -len(tag), tag) for tag in tags if (place := self._buffer.find(tag)) >= 0]
        certain = len(self._buffer) - (0 if final else partial_tag(self._buffer, tags))
        if not found or min(found)[0] >= certain:
            return certain, None
        place, _, tag = min(found)
        return place, tag

    def _take(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        if not self._parallel:
            for i, delta in enumerate(deltas):
                if delta.complete:
                    self._called = True
                    return deltas[: i + 1]
        return deltas
