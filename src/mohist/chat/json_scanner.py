"""One JSON object as it comes: how much of a text can belong to it (RFC 8259)."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["MAX_DEPTH", "MAX_NUMBER_CHARS", "JsonScanner", "is_atom"]

MAX_DEPTH = 256
"""Objects and lists inside one another; deeper ones, readers of JSON may refuse."""
MAX_NUMBER_CHARS = 256

_SPACE = " \t\n\r"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_ESCAPE = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})')
_ESCAPE_BEGINS = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_ATOM = re.compile(r"[\w.+-]+", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_BEGINS = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][+-]?[0-9]*)?)?")
_NAMES = ("true", "false", "null")

_Expected = Literal["object", "key or end", "key", "colon", "value", "value or end", "comma or end"]


class JsonScanner:
    """Follows an object from its `{` to its `}`."""

    def __init__(self) -> None:
        self.complete = False
        """Whether the object has ended."""
        self.broken = False
        """Whether the next character cannot belong to any object that began like this."""
        self._expected: _Expected = "object"
        self._open: list[str] = []
        """The `{` and `[` that are open."""
        self._in_string = False
        self._partial = ""
        """What there is of an escape, a number or a name."""

    def feed(self, text: str) -> int:
        """How many characters of `text` belong to the object: all of them, unless it ends or breaks."""
        place = 0
        while place < len(text) and not (self.complete or self.broken):
            place = self._string(text, place) if self._in_string else self._outside(text, place)
        return place

    def _string(self, text: str, place: int) -> int:
        if self._partial:
            return self._escape(text, place)
        if plain := _PLAIN.match(text, place):
            return plain.end()
        if text[place] == "\\":
            self._partial = "\\"
        elif text[place] == '"':
            self._in_string = False
            self._expected = "colon" if self._expected in ("key", "key or end") else "comma or end"
        else:
            self.broken = True
            return place
        return place + 1

    def _escape(self, text: str, place: int) -> int:
        written = self._partial + text[place]
        if _ESCAPE.fullmatch(written):
            self._partial = ""
        elif _ESCAPE_BEGINS.fullmatch(written):
            self._partial = written
        else:
            self.broken = True
            return place
        return place + 1

    def _outside(self, text: str, place: int) -> int:
        """Past the next character outside of strings, or past the next part of a number or name."""
        if atom := _ATOM.match(text, place):
            return self._atom(text, place, atom.end())
        if self._partial and not self._ends_atom():
            self.broken = True
            return place
        character = text[place]
        if character in _SPACE and self._expected != "object":
            return place + 1
        if not self._takes(character):
            self.broken = True
            return place
        return place + 1

    def _atom(self, text: str, place: int, end: int) -> int:
        """Past as much of a number or name as can belong to one."""
        if not self._partial and self._expected not in ("value", "value or end"):
            self.broken = True
            return place
        while place < end:
            written = self._partial + text[place]
            known = _NUMBER_BEGINS.fullmatch(written) or any(name.startswith(written) for name in _NAMES)
            if not known or len(written) > MAX_NUMBER_CHARS:
                self.broken = True
                return place
            self._partial = written
            place += 1
        return place

    def _ends_atom(self) -> bool:
        """Whether the number or name before this character is a whole one."""
        whole = self._partial in _NAMES or _NUMBER.fullmatch(self._partial) is not None
        self._partial, self._expected = "", "comma or end"
        return whole

    def _takes(self, character: str) -> bool:
        """Go on with one character that is no part of a string, number or name, if it fits."""
        expected = self._expected
        if character == '"' and expected in ("key or end", "key", "value", "value or end"):
            self._in_string = True
        elif character == "{" and expected in ("object", "value", "value or end"):
            self._open.append("{")
            self._expected = "key or end"
        elif character == "[" and expected in ("value", "value or end"):
            self._open.append("[")
            self._expected = "value or end"
        elif character == ":" and expected == "colon":
            self._expected = "value"
        elif character == "," and expected == "comma or end":
            self._expected = "key" if self._open[-1] == "{" else "value"
        elif character in "}]" and self._ends(character):
            self._open.pop()
            self._expected = "comma or end"
            self.complete = not self._open
        else:
            return False
        return len(self._open) <= MAX_DEPTH

    def _ends(self, character: str) -> bool:
        if character == "}":
            return self._open[-1:] == ["{"] and self._expected in ("key or end", "comma or end")
        return self._open[-1:] == ["["] and self._expected in ("value or end", "comma or end")


def is_atom(text: str) -> bool:
    """Whether `text` is a number or a name."""
    return text in _NAMES or (len(text) <= MAX_NUMBER_CHARS and _NUMBER.fullmatch(text) is not None)
