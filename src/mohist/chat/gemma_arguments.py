"""Arguments of tool calls in Gemma 4's notation as they come: `{key:<|"|>text<|"|>,other:[1,true]}`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mohist.chat.json_scanner import MAX_DEPTH, MAX_NUMBER_CHARS, is_atom
from mohist.chat.partial import partial_tag

__all__ = ["ATOM", "KEY", "MAX_KEY_CHARS", "QUOTE", "GemmaArguments"]

QUOTE = '<|"|>'
KEY = re.compile(r"[^\s:,{}\[\]<]+")
ATOM = re.compile(r"[^\s,{}\[\]<]+")
MAX_KEY_CHARS = 512

_Step = tuple[str, int] | None
"""JSON that is certain, and the place after what was read; None if more text is needed."""


@dataclass(slots=True)
class _Level:
    """An object or a list that is open."""

    end: str
    num_values: int = 0
    awaits_value: bool = False
    """Whether a key was read."""
    awaits_comma: bool = False
    """Whether a value was read."""


class GemmaArguments:
    """See `mohist.chat.arguments.Arguments`. Strings come as they grow, keys and other values when whole."""

    held = ""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.complete = self.broken = False
        self._levels: list[_Level] = []
        self._in_string = False

    def feed(self, text: str) -> tuple[str, int]:
        """See `Arguments`."""
        made, place = "", 0
        while place < len(text) and not (self.complete or self.broken):
            step = self._string(text, place) if self._in_string else self._outside(text, place)
            if step is None:
                break
            made, place = made + step[0], step[1]
        return made, place

    def close(self) -> str:
        """See `Arguments`: an object says itself where it ends."""
        return ""

    def _string(self, text: str, place: int) -> _Step:
        end = text.find(QUOTE, place)
        if end >= 0:
            self._in_string = False
            return _in_string(text[place:end]) + '"', end + len(QUOTE)
        certain = len(text) - partial_tag(text[place:], (QUOTE,))
        return (_in_string(text[place:certain]), certain) if certain > place else None

    def _outside(self, text: str, place: int) -> _Step:
        level = self._levels[-1] if self._levels else None
        if level is not None and text[place] == level.end and not level.awaits_value:
            self._levels.pop()
            self.complete = not self._levels
            return level.end, place + 1
        if level is not None and level.awaits_comma:
            level.awaits_comma = False
            return ("", place + 1) if text[place] == "," else self._break()
        if level is not None and level.end == "}" and not level.awaits_value:
            return self._key(level, text, place)
        return self._value(level, text, place)

    def _key(self, level: _Level, text: str, place: int) -> _Step:
        if text.startswith(QUOTE, place):
            start = place + len(QUOTE)
            end = text.find(QUOTE, start)
            if end < 0 and len(text) - start < MAX_KEY_CHARS + len(QUOTE):
                return None
            key, after = text[start:end], end + len(QUOTE)
        elif QUOTE.startswith(text[place:]):
            return None
        else:
            found = KEY.match(text, place)
            if found is None:
                return self._break()
            key, after = found[0], found.end()
        if len(key) > MAX_KEY_CHARS:
            return self._break()
        if after == len(text):
            return None
        if text[after] != ":":
            return self._break()
        level.awaits_value = True
        return f"{_comma(level)}{json.dumps(key, ensure_ascii=False)}: ", after + 1

    def _value(self, level: _Level | None, text: str, place: int) -> _Step:
        comma = _comma(level) if level is not None and level.end == "]" else ""
        if text.startswith(QUOTE, place):
            self._in_string = True
            made, after = '"', place + len(QUOTE)
        elif QUOTE.startswith(text[place:]):
            return None
        elif text[place] in "{[" and len(self._levels) < MAX_DEPTH:
            self._levels.append(_Level("}" if text[place] == "{" else "]"))
            made, after = text[place], place + 1
        else:
            found = ATOM.match(text, place)
            if found is not None and found.end() == len(text) and len(found[0]) <= MAX_NUMBER_CHARS:
                return None
            if found is None or not is_atom(found[0]):
                return self._break()
            made, after = found[0], found.end()
        if level is not None:
            level.num_values += 1
            level.awaits_value, level.awaits_comma = False, True
        return comma + made, after

    def _break(self) -> None:
        self.broken = True


def _comma(level: _Level) -> str:
    return ", " if level.num_values else ""


def _in_string(text: str) -> str:
    """`text` as it stands in a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
