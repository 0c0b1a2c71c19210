"""Tool calls of another server's answer, passed on as they come."""

from __future__ import annotations

import secrets
from dataclasses import replace

from mohist.chat.json_scanner import JsonScanner
from mohist.serve.answer import Piece, ToolCallPiece
from mohist.types import ToolCall

__all__ = ["UpstreamCalls"]


class UpstreamCalls:
    """Calls of one choice.

    Pieces of one call follow one another in what is given out, whatever the order in which they come: one
    call is open and passed on, and the next is opened once the arguments of that one are a whole object.
    Until then other calls wait, and so does text.
    """

    def __init__(self, choice: int) -> None:
        self._choice = choice
        self._open: int | None = None
        """The other server's number of the open call, ..."""
        self._call = ToolCall(name="", arguments="")
        """... what is not given out of it, ..."""
        self._begun = False
        """... whether anything is, ..."""
        self._scanner = JsonScanner()
        """... and what follows its arguments."""
        self._closed: set[int] = set()
        self._waiting: dict[int, ToolCall] = {}
        self._texts: list[Piece] = []
        """They wait for the open call."""

    def text(self, piece: Piece) -> list[Piece | ToolCallPiece]:
        """Text comes."""
        if self._open is not None and not self._scanner.complete:
            self._texts.append(piece)
            return []
        return [*self._close(complete=True), piece]

    def push(self, number: int, call: ToolCall) -> list[Piece | ToolCallPiece]:
        """A piece of the call with this number comes. ValueError if that is over."""
        if number in self._closed:
            if call.arguments.strip():
                raise ValueError("went on with a tool call that was over")
            return []
        given: list[Piece | ToolCallPiece] = []
        if number != self._open:
            is_free = self._open is None or self._scanner.complete
            if self._waiting or not is_free:
                self._waiting[number] = _joined(self._waiting.get(number), call)
                return []
            given += self._close(complete=True)
            self._open = number
        self._call = _joined(self._call, call)
        return given + self._give() if call.arguments else given

    def finish(self, *, complete: bool) -> list[Piece | ToolCallPiece]:
        """The answer is over. `complete`: it was not cut off, so that its last call is whole."""
        waiting = sorted(self._waiting.items())
        given = self._close(complete=complete or bool(waiting))
        for number, call in waiting:
            self._open, self._call = number, call
            given += self._close(complete=complete or number != waiting[-1][0])
        return given

    def _give(self) -> list[Piece | ToolCallPiece]:
        """What has come of the open call."""
        text, begins = self._call.arguments, None
        if not self._begun:
            begins = replace(self._call, arguments="", id=self._call.id or f"call_{secrets.token_hex(12)}")
        self._scanner.feed(text)
        self._call, self._begun = ToolCall(name="", arguments=""), True
        return [ToolCallPiece(choice=self._choice, index=len(self._closed), text=text, begins=begins)]

    def _close(self, *, complete: bool) -> list[Piece | ToolCallPiece]:
        """The end of the open call, if there is one, and the texts that waited for it."""
        if self._open is None:
            return []
        given = [] if self._begun else self._give()
        end = ToolCallPiece(choice=self._choice, index=len(self._closed), text="", complete=complete)
        given += [end, *self._texts]
        self._closed.add(self._open)
        self._open, self._begun, self._scanner, self._texts = None, False, JsonScanner(), []
        self._call = ToolCall(name="", arguments="")
        return given


def _joined(known: ToolCall | None, more: ToolCall) -> ToolCall:
    if known is None:
        return more
    return ToolCall(
        name=known.name + more.name, arguments=known.arguments + more.arguments, id=known.id or more.id
    )
