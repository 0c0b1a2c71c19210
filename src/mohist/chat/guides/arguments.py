"""Grammars for arguments that are written one by one, as text between tags, and not as one JSON object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from mohist.chat.guides.grammar import json_rule, literal
from mohist.chat.guides.schema import checked_schema
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError

__all__ = ["argument_rules"]

_TYPES = {"integer": "number"} | {t: t for t in ("number", "string", "boolean", "null", "array", "object")}
"""What formats call the types of JSON schemas."""
_KEY = re.compile(r"[\w.-]{1,64}")
_AROUND = {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}
_NOTES = {"title", "description", "default", "examples", "$comment", "deprecated"}


def argument_rules(
    tokenizer: Tokenizer, syntax: tuple[str, str], rule: str, schema: Mapping[str, Any], where: str
) -> str:
    """Rules of which `rule` is all arguments of a call, in the order of the schema's properties.

    `syntax` is `CallSyntax.argument`. Strings are plain text up to the tag after them, all else is JSON.
    Raises RequestError for what text cannot be kept to.
    """
    checked_schema(schema, where)
    others = set(schema) - _AROUND - _NOTES
    if others:
        raise RequestError(
            f"{where}: {min(others)!r} is not supported where arguments are written one by one"
        )
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = schema.get("required", [])
    unknown = [name for name in required if name not in properties]
    if unknown:
        raise RequestError(f"{where}: {unknown[0]!r} is required, but is none of its properties")
    shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    parts, rules = [], ""
    for index, (key, part) in enumerate(properties.items()):
        name = f"{rule}_{index}"
        rules += _argument(tokenizer, syntax, name, key, part, shared, f"{where}/properties/{key}")
        parts.append(name if key in required else f"{name}?")
    return f"{rule}: {' '.join(parts)}\n{rules}"


def _argument(
    tokenizer: Tokenizer,
    syntax: tuple[str, str],
    rule: str,
    key: str,
    schema: Any,
    shared: Mapping[str, Any],
    where: str,
) -> str:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not isinstance(kind, str) or kind not in _TYPES:
        raise RequestError(f"{where}: an argument that is written as text needs one type, not {kind!r:.80}")
    if not _KEY.fullmatch(key):
        raise RequestError(f"{where}: the name of an argument that is written as text is a word")
    fields = {"{key}": key, "{type}": _TYPES[kind], "{is_string}": str(kind == "string").lower()}
    before, after = syntax
    for field, value in fields.items():
        before, after = before.replace(field, value), after.replace(field, value)
    head = f"{rule}: {literal(tokenizer, before)} {rule}_value"
    if kind != "string":
        value = json_rule(checked_schema({**schema, **shared}, where))
        return f"{head} {literal(tokenizer, after)}\n{rule}_value: {value}\n"
    others = set(schema) - _NOTES - {"type", "enum", "const"}
    if others:
        raise RequestError(f"{where}: {min(others)!r} is not supported for text that is an argument")
    if "enum" in schema or "const" in schema:
        choices = schema.get("enum", [schema.get("const")])
        if not all(isinstance(choice, str) for choice in choices):
            raise RequestError(f"{where}: a string that is one of {choices!r:.80}")
        texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
        return f"{head} {literal(tokenizer, after)}\n{rule}_value: {texts}\n"
    return head + _text_until(tokenizer, after, f"{rule}_value")


def _text_until(tokenizer: Tokenizer, after: str, rule: str) -> str:
    """The end of a rule that ends in `rule`: any text up to the first `after`, and that."""
    first, *rest = tokenizer.split(after.lstrip("\n"))
    if isinstance(first, int):
        tail = " ".join(literal(tokenizer, _text(tokenizer, piece)) for piece in (first, *rest))
        return f" {tail}\n{rule}: /(?s:.*)/\n"
    text = first.rstrip("\n") if not rest else first
    tail = literal(tokenizer, first[len(text) :]) if not rest else ""
    tail += " ".join(literal(tokenizer, _text(tokenizer, piece)) for piece in rest)
    lazy = "" if rest else "[lazy]"
    pattern = re.escape(text).replace("/", r"\/")
    return f" {tail}\n{rule}{lazy}: /(?s:.*){pattern}/\n"


def _text(tokenizer: Tokenizer, piece: str | int) -> str:
    return piece if isinstance(piece, str) else tokenizer.markup[piece]
