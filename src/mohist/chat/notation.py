"""A notation close to JSON in which some models write the arguments of a call."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Notation", "in_order"]


@dataclass(frozen=True, kw_only=True)
class Notation:
    """Keys may be bare and come in alphabetical order, strings stand between quotes of their own and escape
    nothing, and there is no white space; all else is JSON."""

    quote: str
    """Before and after a string, which cannot hold it."""
    bare_key: re.Pattern[str]
    """A key that needs no quotes."""
    max_key_chars: int

    def write(self, value: Any) -> str:
        """`value`, of what JSON is made of. ValueError if it cannot be written."""
        if isinstance(value, dict):
            return (
                "{" + ",".join(f"{self.key(key)}:{self.write(value[key])}" for key in in_order(value)) + "}"
            )
        if isinstance(value, list):
            return "[" + ",".join(map(self.write, value)) + "]"
        return self._quoted(value) if isinstance(value, str) else json.dumps(value, allow_nan=False)

    def key(self, key: str) -> str:
        """`key` as it is written before its colon. ValueError if it cannot be."""
        if len(key) > self.max_key_chars:
            raise ValueError(f"{key!r:.80}: a key has at most {self.max_key_chars} characters")
        return key if self.bare_key.fullmatch(key) else self._quoted(key)

    def _quoted(self, text: str) -> str:
        if self.quote in text:
            raise ValueError(f"{text!r:.80}: {self.quote!r} ends a string, so it cannot stand in one")
        return self.quote + text + self.quote


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys in alphabetical order, as templates sort them: capital letters count as small ones."""
    return sorted(keys, key=lambda key: (key.lower(), key))
