"""What the fields of a dataclass may hold, as its annotations say."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

__all__ = [
    "defaults_of",
    "element_types",
    "section_of",
    "spelled",
    "split_optional",
    "types_of",
    "variants_of",
]

_SPELLINGS = {bool: "true|false", int: "int", float: "float", str: "text", Path: "path"}


@functools.cache
def types_of(cls: Any) -> dict[str, Any]:
    """Name -> resolved type of every field."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def defaults_of(cls: Any) -> dict[str, Any]:
    """Name -> default of every field, or MISSING."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default if field.default_factory is missing else field.default_factory()
        for field in dataclasses.fields(cls)
    }


def variants_of(cls: Any) -> Mapping[str, Any]:
    """Name -> class of the kinds that a section of type `cls` can be of; empty if it is of one kind only."""
    # A subclass, once picked, is of one kind.
    return cls.variants() if "variants" in vars(cls) else {}


def split_optional(kind: Any) -> tuple[Any, bool]:
    """`X | None` -> (X, True); anything else -> (itself, False)."""
    args = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        return next(arg for arg in args if arg is not type(None)), True
    return kind, False


def section_of(kind: Any) -> type | None:
    """The nested dataclass that a field of this type holds, if it holds one."""
    inner = split_optional(kind)[0]
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def element_types(kind: Any, count: int) -> list[Any]:
    """The types of a tuple's elements when it has `count` of them (or of as many as it must have)."""
    args = list(get_args(kind))
    return [args[0]] * count if len(args) == 2 and args[1] is Ellipsis else args


def spelled(kind: Any) -> str:
    """A type as a user reads it: `int`, `fast|slow`, `int,int,...`, `float|none`."""
    inner, optional = split_optional(kind)
    if get_origin(inner) is Literal:
        text = "|".join(str(choice) for choice in get_args(inner))
    elif get_origin(inner) is tuple:
        args = get_args(inner)
        text = ",".join("..." if arg is Ellipsis else spelled(arg) for arg in args)
    elif dataclasses.is_dataclass(inner):
        text = "a table"
    elif inner in _SPELLINGS:
        text = _SPELLINGS[inner]
    else:
        raise TypeError(f"a config field cannot be of type {kind}")
    return f"{text}|none" if optional else text
