"""JSON schemas that a guide can keep an answer to: what is refused before a grammar is made of one.

A keyword that nobody knows is refused too. To ignore it would be to promise what is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mohist.errors import RequestError

__all__ = ["ANNOTATIONS", "JSON_OBJECT", "MAX_DEPTH", "MAX_SCHEMA_BYTES", "checked_schema", "target"]

JSON_OBJECT: Mapping[str, Any] = {"type": "object"}
"""What JSON mode asks for."""

MAX_SCHEMA_BYTES = 64 * 1024
"""Of a schema's JSON text."""
MAX_DEPTH = 64
"""Objects and lists inside one another."""
MAX_MULTIPLE = 10_000
"""Largest `multipleOf`: its grammar has a state for every remainder."""

_SCHEMA = ("additionalProperties", "items", "additionalItems")
_SCHEMAS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_ASSERTIONS = (
    "type",
    "enum",
    "const",
    "required",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "maxProperties",
    "$ref",
)
ANNOTATIONS = (
    "$comment",
    "$schema",
    "title",
    "description",
    "default",
    "deprecated",
    "examples",
    "readOnly",
    "writeOnly",
)
"""Keywords that ask for nothing."""
_KNOWN = frozenset((*_SCHEMA, *_SCHEMAS, *_SCHEMAS_BY_NAME, *_ASSERTIONS, *ANNOTATIONS))


def checked_schema(schema: Any, where: str = "schema") -> str:
    """`schema` as JSON text that the grammar compiler may be given.

    Raises RequestError that says which part (a JSON pointer after `where`) has what is too deep, too large,
    unknown or not supported, or a `$ref` that leads nowhere or in a circle.
    """
    _check_depth(schema, where)
    try:
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise RequestError(f"{where}: not JSON: {error}") from error
    if size > MAX_SCHEMA_BYTES:
        raise RequestError(f"{where}: has {size} bytes as JSON; at most {MAX_SCHEMA_BYTES} are taken")
    if not isinstance(schema, Mapping):
        raise RequestError(f"{where} = {text:.80}: it must be a JSON schema, which is an object")
    parts = list(_parts(schema, where))
    checked = {id(part) for part, _ in parts}
    for part, place in parts:
        _check_keywords(part, place)
        _check_reference(schema, part, place, checked)
    return text


def _check_depth(value: Any, where: str) -> None:
    """Level by level, since what is deep enough breaks whatever recurs."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, Mapping) else part)
            if isinstance(item, (Mapping, list, tuple))
        ]
        if not level:
            return
    raise RequestError(f"{where}: is nested more than {MAX_DEPTH} deep")


def _parts(schema: Any, place: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every schema inside `schema`, itself first, with its place; true and false have no parts."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise RequestError(f"{place} = {schema!r:.80}: it must be a JSON schema, an object or a truth value")
    yield schema, place
    for key, value in schema.items():
        where = f"{place}/{key}"
        if key in _SCHEMAS or (key == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise RequestError(f"{where} = {value!r:.80}: it must be a list of schemas")
            for i, part in enumerate(value):
                yield from _parts(part, f"{where}/{i}")
        elif key in _SCHEMA:
            yield from _parts(value, where)
        elif key in _SCHEMAS_BY_NAME:
            if not isinstance(value, Mapping):
                raise RequestError(f"{where} = {value!r:.80}: it must be an object of schemas")
            for name, part in value.items():
                yield from _parts(part, f"{where}/{name}")


def _check_keywords(part: Mapping[str, Any], place: str) -> None:
    for key in part:
        if key not in _KNOWN:
            raise RequestError(f"{place}: the keyword {key!r} is not supported (see docs/guides.md)")
    multiple = part.get("multipleOf", 1)
    if isinstance(multiple, (int, float)) and not 0 < multiple <= MAX_MULTIPLE:
        raise RequestError(f"{place}/multipleOf = {multiple}: it must be over 0 and at most {MAX_MULTIPLE}")


def _check_reference(root: Mapping[str, Any], part: Mapping[str, Any], place: str, checked: set[int]) -> None:
    """Follow `$ref` until a schema is not just another reference; it must be one of those `checked` (ids)."""
    seen: list[str] = []
    while "$ref" in part:
        reference = part["$ref"]
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise RequestError(
                f"{place}/$ref = {reference!r:.80}: only references into the schema itself (#/...) are taken"
            )
        if reference in seen:
            raise RequestError(f"{place}/$ref = {reference!r:.80}: it leads back to itself")
        seen.append(reference)
        aim = target(root, reference)
        if not isinstance(aim, bool) and id(aim) not in checked:
            raise RequestError(f"{place}/$ref = {reference!r:.80}: it leads to no schema in the schema")
        if isinstance(aim, bool):
            return
        part = aim


def target(root: Any, reference: str) -> Any:
    """What a JSON pointer (RFC 6901) points to; None if there is nothing."""
    from urllib.parse import unquote

    for name in reference.split("/")[1:]:
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        if isinstance(root, Mapping):
            root = root.get(key)
        elif isinstance(root, list) and key.isdecimal() and int(key) < len(root):
            root = root[int(key)]
        else:
            return None
    return root
