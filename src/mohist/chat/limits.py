"""What a template may take: steps, time, and the sizes of what it makes.

Sizes are checked where a value is made, so whatever a list or an object holds must not grow afterwards.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, SupportsIndex

from jinja2.sandbox import SecurityError

__all__ = [
    "MAX_TEXT",
    "Budget",
    "Counted",
    "OwnList",
    "check_fields",
    "check_product",
    "check_size",
    "check_widths",
]

MAX_STEPS = 200_000
"""Loop steps and calls of one rendering. A conversation of 1,000 messages takes some 5,000."""
MAX_SECONDS = 5.0
"""A rendering takes milliseconds."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters of any one text that a template makes; several million tokens."""
MAX_VALUES = 200_000
"""Values inside any one list or object that a template makes, nested ones counted as often as they appear."""
MAX_WIDTH = 10_000
"""Largest number in the arguments of a string method or of a filter that pads."""

_WIDE_FIELD = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\d{5}|\*)|\{[^{}]*(?:\d{5}|\{)")
"""A field of `%` or `str.format` with a width of five digits or one that an argument gives."""


class Budget:
    """What is left of one rendering's allowance."""

    def __init__(self, steps: int = MAX_STEPS, seconds: float = MAX_SECONDS) -> None:
        self._steps = steps
        self._deadline = time.monotonic() + seconds

    def step(self) -> None:
        """Count one loop step or call."""
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")
        if self._steps % 64 == 0 and time.monotonic() > self._deadline:
            raise SecurityError(f"the template takes more than {MAX_SECONDS:g} seconds")

    def count(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items, each of them a step."""
        for item in items:
            self.step()
            yield item


class Counted:
    """Items that cost steps, and their number, which Jinja's `loop` asks for."""

    def __init__(self, items: Any, budget: Budget) -> None:
        self._items, self._budget = items, budget

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        return self._budget.count(self._items)


class OwnList(list[Any]):
    """A list that the template wrote out. It may append and pop, until the list is inside another value.

    So whatever holds a list holds a constant one, and sizes that were checked stay right.
    """

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self._room = MAX_VALUES - _count_values(items)
        self._sealed = False

    def append(self, item: Any, /) -> None:
        """As `list.append`, within the limits; what is popped again still counts."""
        self._room -= 1 + _count_values(item)
        if isinstance(item, OwnList):
            item.seal()
        self._check()
        super().append(item)

    def pop(self, index: SupportsIndex = -1, /) -> Any:
        """As `list.pop`."""
        self._check()
        return super().pop(index)

    def seal(self) -> None:
        """From now on the list is part of another value."""
        self._sealed = True

    def _check(self) -> None:
        if self._room < 0:
            raise SecurityError(f"the template makes a list of more than {MAX_VALUES:,} values")
        if self._sealed:
            raise SecurityError("the template changes a list that is part of another value")


def check_size(value: Any) -> Any:
    """The value that a template has made. Raises SecurityError, as all checks do, if it is too large."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise SecurityError(f"the template makes a text of more than {MAX_TEXT:,} characters")
    else:
        _count_values(value)
    return value


def _count_values(value: Any) -> int:
    """The values inside a list or object, at most `MAX_VALUES`. Lists inside it are sealed."""
    # A list that holds another one twice, which holds another one twice, ... is small until it is printed.
    count, stack = 0, [value]
    while stack:
        item = stack.pop()
        if not isinstance(item, (list, tuple, dict)):
            continue
        count += len(item)
        if count > MAX_VALUES:
            raise SecurityError(f"the template makes a list of more than {MAX_VALUES:,} values")
        for part in chain(item, item.values()) if isinstance(item, dict) else item:
            if isinstance(part, OwnList):
                part.seal()
            stack.append(part)
    return count


def check_product(operator: str, left: Any, right: Any) -> None:
    """What `*` (repetition, too) and `**` may be asked for."""
    for items, count in ((left, right), (right, left)):
        if isinstance(items, (str, list, tuple)) and isinstance(count, int):
            if len(items) * count > (MAX_TEXT if isinstance(items, str) else MAX_VALUES):
                raise SecurityError(f"the template repeats something {count:,} times")
            return
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > 4096:
            raise SecurityError("the template computes a number of more than 4,096 bits")


def check_widths(values: Iterable[Any]) -> None:
    """Arguments of what pads, any number of which may be a width."""
    for value in values:
        if isinstance(value, int) and value > MAX_WIDTH:
            raise SecurityError(f"the template pads to more than {MAX_WIDTH:,} characters")


def check_fields(pattern: str) -> None:
    """The fields of a text for `%` or `str.format`."""
    if _WIDE_FIELD.search(pattern):
        raise SecurityError(f"the template formats with a very wide field: {pattern[:40]!r}")
