"""Arguments of tool calls as they come: what a model has written so far, to as much JSON as is certain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mohist.chat.calls import typed_value
from mohist.chat.json_scanner import JsonScanner
from mohist.chat.partial import partial_tag

__all__ = ["MAX_MARKUP_CHARS", "Arguments", "JsonArguments", "TagArguments", "TagSyntax"]

MAX_MARKUP_CHARS = 512
"""Of the markup before a call or an argument; what is longer is none."""


class Arguments(Protocol):
    """Reads the arguments of one call. What `feed` gives adds up to one JSON object."""

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        ...

    @property
    def broken(self) -> bool:
        """Whether what comes next is no part of it, although it has not ended."""
        ...

    @property
    def held(self) -> str:
        """What was taken without any JSON for it, so far."""
        ...

    def feed(self, text: str) -> tuple[str, int]:
        """JSON that is certain now, and how many characters of `text` it took; give the rest again."""
        ...

    def close(self) -> str:
        """The last JSON, where the section of calls ends here."""
        ...


class JsonArguments:
    """Arguments that the model writes as JSON: they are taken as they are spelled."""

    held = ""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._scanner = JsonScanner()

    @property
    def complete(self) -> bool:
        """See `Arguments`."""
        return self._scanner.complete

    @property
    def broken(self) -> bool:
        """See `Arguments`."""
        return self._scanner.broken

    def feed(self, text: str) -> tuple[str, int]:
        """See `Arguments`."""
        used = self._scanner.feed(text)
        return text[:used], used

    def close(self) -> str:
        """See `Arguments`: JSON says itself where it ends."""
        return ""


@dataclass(frozen=True, kw_only=True)
class TagSyntax:
    """How arguments are written one by one, each value between tags."""

    before: re.Pattern[str]
    """Up to the value, with groups `key` and, where the markup tells whether it is a string, `kind`."""
    end: str
    """After the value."""
    after: re.Pattern[str] | None
    """After the last argument; None: the section of calls ends there."""
    newlines: bool = False
    """Whether one newline at either end of a value belongs to the tags."""
    python_names: bool = False
    """Whether the model writes True, False and None."""
    key: Callable[[str], str] = str.strip
    """What a written key means."""


class TagArguments:
    """Arguments between tags. Strings come as they grow, other values when they are whole."""

    def __init__(self, syntax: TagSyntax, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._syntax = syntax
        self._schemas = properties if isinstance(properties, Mapping) else {}
        self._keys: set[str] = set()
        self._schema: Any = None
        """Of the argument whose value is being read, ..."""
        self._kind: str | None = None
        """... what the markup says of it, ..."""
        self._in_value = self._in_string = self._at_start = False
        """... and where in it we are."""
        self._parts: list[str] = []
        """Of a value that is no string, as far as it came."""
        self.complete = self.broken = False

    @property
    def held(self) -> str:
        """See `Arguments`."""
        return "".join(self._parts)

    def feed(self, text: str) -> tuple[str, int]:
        """See `Arguments`."""
        made, place = "", 0
        while not (self.complete or self.broken):
            step = self._value(text[place:]) if self._in_value else self._between(text[place:])
            if step is None:
                break
            made, place = made + step[0], place + step[1]
        return made, place

    def close(self) -> str:
        """See `Arguments`."""
        if self._syntax.after is not None or self._in_value:
            return ""
        self.complete = True
        return "}" if self._keys else "{}"

    def _between(self, text: str) -> tuple[str, int] | None:
        if found := self._syntax.before.match(text, 0, MAX_MARKUP_CHARS):
            key = self._syntax.key(found["key"])
            if key in self._keys:
                self.broken = True
                return None
            self._schema, self._kind = self._schemas.get(key), found.groupdict().get("kind")
            self._in_value = self._at_start = True
            said = isinstance(self._schema, Mapping) and self._schema.get("type") == "string"
            self._in_string = said if self._kind is None else self._kind in ("string", "true")
            comma = ", " if self._keys else "{"
            self._keys.add(key)
            opening = '"' if self._in_string else ""
            return f"{comma}{json.dumps(key, ensure_ascii=False)}: {opening}", found.end()
        after = self._syntax.after
        if after is not None and (found := after.match(text, 0, MAX_MARKUP_CHARS)):
            self.complete = True
            return "}" if self._keys else "{}", found.end()
        return None

    def _value(self, text: str) -> tuple[str, int] | None:
        if self._at_start and self._syntax.newlines:
            if not text:
                return None
            self._at_start = False
            if text.startswith("\n"):
                return "", 1
        end, newline = self._syntax.end, "\n" if self._syntax.newlines else ""
        place = text.find(end)
        if place < 0:
            certain = len(text) - partial_tag(text, (newline + end, end))
            if self._in_string:
                return (_in_string(text[:certain]), certain) if certain else None
            self._parts.append(text[:certain])
            return ("", certain) if certain else None
        value = text[:place].removesuffix(newline) if newline else text[:place]
        self._in_value = False
        if self._in_string:
            return _in_string(value) + '"', place + len(end)
        value = self.held + value
        try:
            known = json.loads(value) if self._kind is not None else self._typed(value)
            self._parts.clear()
            return json.dumps(known, ensure_ascii=False), place + len(end)
        except (ValueError, RecursionError):
            self._in_value = self.broken = True
            return None

    def _typed(self, value: str) -> Any:
        return typed_value(value, self._schema, self._syntax.python_names)


def _in_string(text: str) -> str:
    """`text` as it stands in a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
