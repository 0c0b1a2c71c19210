"""Calls of tools as models write them: what a format can say about them, and how to read their parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mohist.chat.notation import Notation
from mohist.types import ToolCall

__all__ = [
    "CallSyntax",
    "Schemas",
    "matches_in_turn",
    "schemas_of",
    "tool_call_from_json",
    "tool_call_from_texts",
    "tool_calls_from_json_texts",
    "typed_value",
]

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of every tool's arguments, by the tool's name."""


@dataclass(frozen=True, kw_only=True)
class CallSyntax:
    """How a model writes calls, for whoever writes them in its place or constrains what it writes.

    In all texts `{name}` stands for the tool's name, `{index}` for the call's number in the answer from 0,
    `{number}` for that from 1, and `{key}` for an argument's name.
    """

    opening: str = ""
    """Before the first call of an answer."""
    call: tuple[str, str]
    """Around the arguments of one call."""
    between: str = ""
    """Between two calls."""
    closing: str = ""
    """After the last call."""
    argument: tuple[str, str] | None = None
    """Around the value of one argument, which is text as it is if it is a string and JSON otherwise. `{type}`
    stands for the JSON type of the value, `{is_string}` for `true` or `false`. None: the arguments are one
    JSON object, ..."""
    notation: Notation | None = None
    """... or one object in this notation."""

    def write(self, calls: Sequence[ToolCall]) -> str:
        """`calls` as a model would write them. ValueError if arguments are no JSON object, or none that the
        format can write."""
        written = self.between.join(self._call(index, call) for index, call in enumerate(calls))
        return self.opening + written + self.closing

    def _call(self, index: int, call: ToolCall) -> str:
        before, after = (
            _filled(text, {"name": call.name, "index": str(index), "number": str(index + 1)})
            for text in self.call
        )
        if self.argument is None and self.notation is None:
            return before + call.arguments + after
        arguments = json.loads(call.arguments)
        if not isinstance(arguments, dict):
            raise ValueError(f"arguments = {call.arguments:.80}: they must be a JSON object")
        if self.notation is not None:
            return before + self.notation.write(arguments) + after
        return before + "".join(self._argument(key, value) for key, value in arguments.items()) + after

    def _argument(self, key: str, value: Any) -> str:
        assert self.argument is not None
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        known = {"key": key, "type": _json_type(value), "is_string": str(isinstance(value, str)).lower()}
        before, after = (_filled(part, known) for part in self.argument)
        return before + text + after


def schemas_of(tools: Sequence[Mapping[str, Any]] | None) -> Schemas:
    """The schemas in `tools`, JSON objects as in OpenAI's API; what has no such shape is left out."""
    functions = [tool.get("function", tool) for tool in tools or () if isinstance(tool, Mapping)]
    named = [f for f in functions if isinstance(f, Mapping) and isinstance(f.get("name"), str)]
    return {f["name"]: f["parameters"] if isinstance(f.get("parameters"), Mapping) else {} for f in named}


def tool_call_from_json(name: str, arguments: Any, *, call_id: str = "") -> ToolCall:
    """A call with `arguments`, an object or its JSON text. ValueError if they are no object."""
    value = json.loads(arguments) if isinstance(arguments, str) else arguments
    if not name or not isinstance(value, dict):
        raise ValueError("a tool call needs a name and an object of arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name=name, arguments=text, id=call_id)


def matches_in_turn(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """What `pattern` matches one after another, from the beginning of `text` to its end.

    ValueError if anything but white space is left. A search would look through the whole text from every
    place where a match could begin.
    """
    matches: list[re.Match[str]] = []
    place = 0
    while (match := pattern.match(text, place)) is not None:
        matches.append(match)
        place = match.end()
    if text[place:].strip():
        raise ValueError(f"{text[place:]!r:.80} is no part of a call")
    return matches


_BEFORE_ARGUMENTS = re.compile(r'\s*\{\s*"name"\s*:\s*"[^"\\]*"\s*,\s*"(?:arguments|parameters)"\s*:\s*')
"""A call as templates ask for it, up to its arguments, which are kept as the model spelled them."""


def tool_calls_from_json_texts(text: str) -> tuple[ToolCall, ...]:
    """One or more {"name": ..., "arguments": {...}}, one after the other or in a list. ValueError if none."""
    calls: list[ToolCall] = []
    if text.lstrip().startswith("["):
        calls = [_from_object(call, json.dumps(call, ensure_ascii=False)) for call in json.loads(text)]
        text = ""
    place = _after_space(text, 0)
    while place < len(text):
        call, end = json.JSONDecoder().raw_decode(text, place)
        calls.append(_from_object(call, text[place:end]))
        place = _after_space(text, end)
    if not calls:
        raise ValueError("there is no tool call")
    return tuple(calls)


def _from_object(call: Any, written: str) -> ToolCall:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ValueError("a tool call must be an object with a name")
    arguments = call.get("arguments", call.get("parameters", {}))
    if before := _BEFORE_ARGUMENTS.match(written):
        value, end = json.JSONDecoder().raw_decode(written, before.end())
        if isinstance(value, dict) and value == arguments:
            arguments = written[before.end() : end]
    call_id = call.get("id", "")
    return tool_call_from_json(call["name"], arguments, call_id=call_id if isinstance(call_id, str) else "")


def tool_call_from_texts(
    name: str,
    arguments: Iterable[tuple[str, str]],
    schemas: Schemas,
    *,
    python_names: bool = False,
) -> ToolCall:
    """A call whose arguments are plain text, each of the type that the tool's schema gives it.

    Without a schema, text that is JSON of another type than string is of that type. `python_names`: the
    model writes True, False and None. ValueError if the name is missing or an argument occurs twice.
    """
    properties = schemas.get(name, {}).get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    values: dict[str, Any] = {}
    for key, text in arguments:
        if key in values:
            raise ValueError(f"argument {key!r} occurs twice")
        values[key] = typed_value(text, known.get(key), python_names)
    return tool_call_from_json(name, values)


def typed_value(text: str, schema: Any, python_names: bool) -> Any:
    """The value that plain text is under `schema`; see `tool_call_from_texts`."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    if python_names and text in _PYTHON_NAMES:
        return _PYTHON_NAMES[text]
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text
    return text if isinstance(value, str) else value


_PYTHON_NAMES = {"True": True, "False": False, "None": None}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "number", float: "number", str: "string", dict: "object", list: "array"}
    return names.get(type(value), "null")


def _filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with its fields filled in; other braces are text."""
    return re.sub(r"\{(\w+)\}", lambda field: values.get(field[1], field[0]), text)


def _after_space(text: str, place: int) -> int:
    """The place of the next character that is neither space nor a semicolon, which Llama 3 puts between."""
    while place < len(text) and (text[place].isspace() or text[place] == ";"):
        place += 1
    return place
