"""Parsers look at each character of an answer a bounded number of times, however long it is."""

from __future__ import annotations

import json
from typing import Any, SupportsIndex

import pytest

from mohist.chat.delta import Delta, calls_in
from mohist.chat.formats.kimi import FORMAT as KIMI
from mohist.chat.partial import partial_tag
from mohist.chat.stream import splitter
from mohist.types import ToolCall
from tests.chat.test_every_format import CALLING, FORMATS

TOOLS: list[dict[str, Any]] = [
    {
        "function": {
            "name": "f",
            "parameters": {"properties": {"s": {"type": "string"}, "l": {"type": "array"}}},
        }
    }
]


class Counted(str):
    """Text that counts the characters of it that are searched, compared or copied, and so do its parts.

    Regular expressions do not count: those of parsers look at `MAX_MARKUP_CHARS` characters, or go on where
    they stopped.
    """

    looked = 0

    def __add__(self, other: str) -> Counted:
        return _counted(str.__add__(self, other))

    def __radd__(self, other: str) -> Counted:
        return _counted(str.__add__(other, self))

    def __getitem__(self, key: SupportsIndex | slice) -> Counted:
        return _counted(str.__getitem__(self, key))

    def find(self, sub: str, start: Any = 0, end: Any = None, /) -> int:
        place = str.find(self, sub, start, end)
        last = place + len(sub) if place >= 0 else len(self) if end is None else min(end, len(self))
        Counted.looked += max(0, last - start)
        return place

    def startswith(self, prefix: Any, start: Any = None, end: Any = None, /) -> bool:
        Counted.looked += len(prefix)
        return str.startswith(self, prefix, start, end)

    def lstrip(self, *chars: Any) -> Counted:
        Counted.looked += len(self)
        return _counted(str.lstrip(self, *chars))

    def rstrip(self, *chars: Any) -> Counted:
        Counted.looked += len(self)
        return _counted(str.rstrip(self, *chars))

    def partition(self, sep: str) -> tuple[str, str, str]:
        Counted.looked += len(self)
        before, found, after = str.partition(self, sep)
        return _counted(before), _counted(found), _counted(after)

    def removesuffix(self, suffix: str) -> Counted:
        return _counted(str.removesuffix(self, suffix))


def _counted(text: str) -> Counted:
    Counted.looked += len(text)
    return Counted(text)


def work(name: str, text: str) -> tuple[int, list[Delta]]:
    """Characters looked at where `text` comes four at a time, and what comes out."""
    cut = splitter(FORMATS[name], tools=TOOLS)
    Counted.looked = 0
    deltas: list[Delta] = []
    for place in range(0, len(text), 4):
        deltas += cut.feed(Counted(text[place : place + 4]))
    return Counted.looked, deltas + cut.finish()


def check_linear(name: str, short: str, long: str) -> list[Delta]:
    few, _ = work(name, short)
    many, deltas = work(name, long)
    ratio = len(long) / len(short)
    assert ratio > 3
    assert many <= 1.1 * ratio * few
    assert many / len(long) < 250
    return deltas


@pytest.mark.parametrize("name", FORMATS)
def test_thinking(name: str) -> None:
    opening, closing = FORMATS[name].thought
    deltas = check_linear(name, *(f"{opening}{'so. ' * count}{closing}x" for count in (400, 1600)))
    assert (
        "".join(delta.text for delta in deltas if delta.kind == "reasoning").strip()
        == ("so. " * 1600).strip()
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("piece", ["so. ", "\n\n\n\n", "    ", '{"n ', "<|< "])
def test_plain_text(name: str, piece: str) -> None:
    deltas = check_linear(name, piece * 400 + "x", piece * 1600 + "x")
    text = "".join(delta.text for delta in deltas if delta.kind == "content")
    assert text.strip() == (piece * 1600 + "x").strip()


@pytest.mark.parametrize("name", CALLING)
@pytest.mark.parametrize("argument", ["string", "list", "tags"])
def test_arguments(name: str, argument: str) -> None:
    """A list is held back as a whole where arguments are written as text."""
    kind = FORMATS[name]
    assert kind.calls is not None
    values: dict[str, Any] = {
        "string": lambda n: {"s": "abc " * n},
        "list": lambda n: {"l": ["ab"] * n},
        "tags": lambda n: {"s": "</a>" * n},
    }
    written = [
        kind.calls.write([ToolCall(name="f", arguments=json.dumps(values[argument](n)))]) for n in (400, 1600)
    ]
    (call,) = calls_in(check_linear(name, *written))
    assert json.loads(call.arguments) == values[argument](1600)


@pytest.mark.parametrize("name", [name for name in CALLING if not FORMATS[name].channels])
@pytest.mark.parametrize("what", ["text", "calls", "openings", "space"])
def test_sections_that_cannot_be_read(name: str, what: str) -> None:
    """Calls of a tool that does not exist, without their ends; marks in a row; and nothing of the kind."""
    kind = FORMATS[name]
    assert kind.calls is not None
    opening = max((opening for opening, _ in kind.tool_sections), key=len)
    piece = {
        "text": "abc ",
        "calls": kind.calls.call[0].replace("{name}", "g").replace("{index}", "0").replace("{number}", "1"),
        "openings": opening,
        "space": " \n\n ",
    }[what]
    deltas = check_linear(name, *(opening + piece * count + "x" for count in (400, 1600)))
    assert calls_in(deltas) == ()


def test_calls_of_kimi_without_their_ends_are_read_at_once() -> None:
    """A search for whole calls among these would take years."""
    section = "<|tool_call_begin|>functions.g:0<|tool_call_argument_begin|>{}" * 2000
    with pytest.raises(ValueError, match="is no part of a call"):
        KIMI.parse_tools(section, {})


@pytest.mark.parametrize(
    ("text", "tags", "length"),
    [
        ("", ["<b>"], 0),
        ("a<", ["<b>"], 1),
        ("<b", ["<b>"], 2),
        ("<<b", ["<b>"], 2),
        ("<bb", ["<b>"], 0),
        ("<b>", ["<b>", "<long>"], 0),
        ("<b><", ["<b>", "<long>"], 1),
        ("<b>", ["<b>", "<b>cd"], 3),
        ("<b>c", ["<b>", "<b>cd"], 4),
        ("abab", ["ababc", "b"], 4),
    ],
)
def test_a_tag_that_may_still_come(text: str, tags: list[str], length: int) -> None:
    """One that is whole is not to come, unless it is also the beginning of another."""
    assert partial_tag(text, tags) == length
