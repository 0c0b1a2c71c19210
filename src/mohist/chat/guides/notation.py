"""Grammars for arguments in a notation of a model's own that is close to JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mohist.chat.guides.grammar import json_rule
from mohist.chat.guides.schema import ANNOTATIONS, checked_schema, target
from mohist.chat.notation import Notation, in_order
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError

__all__ = ["notation_rules"]

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEYWORDS: Mapping[str, Sequence[str]] = {
    "string": ("minLength", "maxLength"),
    "integer": _BOUNDS,
    "number": _BOUNDS,
    "boolean": (),
    "null": (),
    "array": ("items", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
"""What a schema may say about each type."""
_NOTES = frozenset((*ANNOTATIONS, "$defs", "definitions"))
_INTEGER = r"/-?(0|[1-9][0-9]{0,17})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/"
_FREE_KEY = r"/[^\s\x00-\x1f:,{}\[\]<]{1,64}/"


def notation_rules(
    tokenizer: Tokenizer, notation: Notation, rule: str, schema: Mapping[str, Any], where: str
) -> str:
    """Rules of which `rule` is an object in `notation` that fits `schema`.

    Properties come in alphabetical order, as templates show them; one that the schema does not name comes
    only where it names none. Raises RequestError for what the notation cannot be kept to.
    """
    checked_schema(schema, where)
    quote = tokenizer.token(notation.quote)
    if quote is None:
        raise RequestError(f"{where}: this tokenizer has no token {notation.quote!r} for the ends of strings")
    writer = _Writer(tokenizer, notation, f"<[{quote}]>", rule, schema)
    top = writer.value(schema, where)
    return f"{rule}: {top}\n" + "".join(f"{name}: {right}\n" for name, right in writer.rules.items())


class _Writer:
    """Turns schemas into right sides of rules; those that are needed more than once have names."""

    def __init__(
        self, tokenizer: Tokenizer, notation: Notation, quote: str, prefix: str, root: Mapping[str, Any]
    ) -> None:
        self._tokenizer, self._notation, self._quote = tokenizer, notation, quote
        self._prefix, self._root = prefix, root
        self.rules: dict[str, str] = {}
        self._referred: dict[str, str] = {}
        """Names of rules for what references lead to."""

    def value(self, schema: Any, where: str) -> str:
        """What fits `schema`."""
        if schema is False:
            raise RequestError(f"{where}: no value fits false")
        if schema is True or not set(schema) - _NOTES:
            return self._any()
        if "$ref" in schema:
            return self._reference(schema, where)
        for key in ("enum", "const"):
            if key in schema:
                _refuse_others(schema, (key, "type"), where)
                return self._choices([schema["const"]] if key == "const" else schema["enum"], schema, where)
        if "anyOf" in schema:
            _refuse_others(schema, ("anyOf",), where)
            parts = enumerate(schema["anyOf"])
            return _either([self.value(part, f"{where}/anyOf/{i}") for i, part in parts])
        types = _types(schema, where)
        _refuse_others(schema, ["type", *(key for kind in types for key in _KEYWORDS[kind])], where)
        return _either([self._typed(kind, schema, where) for kind in types])

    def _typed(self, kind: str, schema: Mapping[str, Any], where: str) -> str:
        match kind:
            case "object":
                return self._object(schema, where)
            case "array":
                return self._array(schema, where)
            case "string":
                return self._text(*_range(schema, "minLength", "maxLength", where))
            case "boolean":
                return '("true" | "false")'
            case "null":
                return '"null"'
        bounds = {key: schema[key] for key in _BOUNDS if key in schema}
        if bounds:
            return self._named("number", json_rule(json.dumps({"type": kind, **bounds}), spaced=False))
        return _INTEGER if kind == "integer" else _NUMBER

    def _object(self, schema: Mapping[str, Any], where: str) -> str:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required = schema.get("required", [])
        unknown = [name for name in required if name not in properties]
        if unknown:
            raise RequestError(f"{where}: {unknown[0]!r} is required, but is none of its properties")
        if not properties:
            free = schema.get("additionalProperties", True)
            if free is False:
                return '"{" "}"'
            key = f"({_FREE_KEY} | {self._text(0, 64)})"
            pair = self._named("pair", f'{key} ":" {self.value(free, f"{where}/additionalProperties")}')
            return f'"{{" ({pair} ("," {pair})*)? "}}"'
        # `first`: what may come where no property stands yet; `more`: after one.
        first, more = '""', '""'
        for name in reversed(in_order(properties)):
            value = self.value(properties[name], f"{where}/properties/{name}")
            one = self._named("property", f'{self._key(name, where)} ":" {value}')
            if name in required:
                first, more = f"{one} {more}", f'"," {one} {more}'
            else:
                first, more = f"({one} {more} | {first})", f'("," {one})? {more}'
            first, more = self._named("first", first), self._named("more", more)
        return f'"{{" {first} "}}"'

    def _array(self, schema: Mapping[str, Any], where: str) -> str:
        least, most = _range(schema, "minItems", "maxItems", where)
        if most == 0:
            return '"[" "]"'
        item = self._named("item", self.value(schema.get("items", True), f"{where}/items"))
        others = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        items = item if most == 1 else f'{item} ("," {item}){others}'
        return f'"[" {items} "]"' if least else f'"[" ({items})? "]"'

    def _text(self, least: int, most: int | None) -> str:
        count = "*" if not least and most is None else f"{{{least},{'' if most is None else most}}}"
        return f"{self._quote} {self._quote}" if most == 0 else f"{self._quote} /(?s:.{count})/ {self._quote}"

    def _choices(self, values: Sequence[Any], schema: Mapping[str, Any], where: str) -> str:
        types = _types(schema, where) if "type" in schema else tuple(_KEYWORDS)
        fitting = [value for value in values if any(_is_of(value, kind) for kind in types)]
        if not fitting:
            raise RequestError(f"{where}: none of its values is of its type")
        return _either([self._literal(value, where) for value in fitting])

    def _literal(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            return f"{self._quote} {self._plain(value, where)} {self._quote}"
        if isinstance(value, dict):
            keys = in_order(value)
            pairs = (f'{self._key(key, where)} ":" {self._literal(value[key], where)}' for key in keys)
            return f'"{{" {_joined(pairs)} "}}"'
        if isinstance(value, (list, tuple)):
            return f'"[" {_joined(self._literal(item, where) for item in value)} "]"'
        return _in_lark(json.dumps(value))

    def _key(self, key: str, where: str) -> str:
        try:
            written = self._notation.key(key)
        except ValueError as error:
            raise RequestError(f"{where}: {error}") from error
        plain = self._plain(key, where)
        return plain if written == key else f"{self._quote} {plain} {self._quote}"

    def _plain(self, text: str, where: str) -> str:
        """A literal that is no markup."""
        if any(isinstance(piece, int) for piece in self._tokenizer.split(text)):
            raise RequestError(f"{where}: {text!r:.80} holds markup of this model, which arguments cannot")
        return _in_lark(text)

    def _reference(self, schema: Mapping[str, Any], where: str) -> str:
        _refuse_others(schema, ("$ref",), where)
        reference = schema["$ref"]
        if reference not in self._referred:
            name = self._referred[reference] = self._new("reference")
            self.rules[name] = ""  # takes its place before those that it needs
            self.rules[name] = self.value(target(self._root, reference), f"{where} -> {reference}")
        return self._referred[reference]

    def _any(self) -> str:
        name = f"{self._prefix}_any"
        if name not in self.rules:
            text, key = self._text(0, None), f"({_FREE_KEY} | {self._text(0, 64)})"
            pair = f"{name}_pair"
            self.rules[name] = (
                f'{text} | {_NUMBER} | "true" | "false" | "null" | "[" ({name} ("," {name})*)? "]" '
                f'| "{{" ({pair} ("," {pair})*)? "}}"'
            )
            self.rules[pair] = f'{key} ":" {name}'
        return name

    def _named(self, kind: str, right: str) -> str:
        name = self._new(kind)
        self.rules[name] = right
        return name

    def _new(self, kind: str) -> str:
        return f"{self._prefix}_{kind}_{len(self.rules)}"


def _types(schema: Mapping[str, Any], where: str) -> tuple[str, ...]:
    said = schema.get("type")
    types = (said,) if isinstance(said, str) else said
    if not isinstance(types, (list, tuple)) or not types or not all(kind in _KEYWORDS for kind in types):
        raise RequestError(f"{where}: arguments in this model's notation need a type, not {said!r:.80}")
    return tuple(types)


def _refuse_others(schema: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    others = set(schema) - _NOTES - set(known)
    if others:
        beside = f"beside {known[0]!r} " if known else ""
        raise RequestError(f"{where}: {min(others)!r} is not supported {beside}in this model's notation")


def _range(schema: Mapping[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    if not isinstance(least, int) or not isinstance(most, (int, type(None))):
        raise RequestError(
            f"{where}: {low} = {least!r:.80}, {high} = {most!r:.80}: they must be whole numbers"
        )
    if least < 0 or (most is not None and most < least):
        raise RequestError(f"{where}: {low} = {least}, {high} = {most}: nothing fits")
    return least, most


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, float):
        return kind == "number" or (kind == "integer" and value.is_integer())
    names = {
        str: ("string",),
        int: ("integer", "number"),
        dict: ("object",),
        list: ("array",),
        tuple: ("array",),
    }
    return kind in names[type(value)]


def _either(choices: Sequence[str]) -> str:
    return choices[0] if len(choices) == 1 else f"({' | '.join(choices)})"


def _joined(parts: Any) -> str:
    return ' "," '.join(parts)


def _in_lark(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
