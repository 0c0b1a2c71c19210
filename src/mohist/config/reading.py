"""Defaults, a TOML file and the command line into a dataclass, every key and type checked."""

from __future__ import annotations

import dataclasses
import difflib
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from mohist.config.fields import (
    defaults_of,
    element_types,
    section_of,
    spelled,
    split_optional,
    types_of,
    variants_of,
)
from mohist.config.writing import describe
from mohist.errors import ConfigError

__all__ = ["from_dict", "load"]

T = TypeVar("T")


def load(cls: type[T], *, path: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Build `cls` from its defaults, then the TOML file at `path`, then `--section.field value` overrides.

    Raises ConfigError naming the key, the value and what was expected.
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not a TOML file: {error}") from error
    for key, text in _pairs(overrides):
        _put(cls, table, key, text)
    return from_dict(cls, table)


def from_dict(cls: type[T], table: Mapping[str, Any], *, prefix: str = "") -> T:
    """Build `cls` from parsed TOML or JSON, checking every key and type. `prefix` leads keys in errors.

    JSON's null is the same as "none".
    """
    cls = _variant(cls, table, prefix)
    kinds = types_of(cls)
    for name in table:
        if name not in kinds:
            raise _unknown(prefix + name, [prefix + known for known in kinds])
    for name, default in defaults_of(cls).items():
        if default is dataclasses.MISSING and name not in table:
            raise ConfigError(f"{prefix}{name}: no value given, and it has no default")
    return cls(**{name: _convert(kinds[name], value, prefix + name) for name, value in table.items()})


def _variant(cls: Any, table: Mapping[str, Any], prefix: str) -> Any:
    """The class that reads `table`: `cls`, or the kind of it that the table's `name` picks."""
    variants = variants_of(cls)
    if not variants:
        return cls
    name = table.get("name", defaults_of(cls)["name"])
    if name is dataclasses.MISSING:
        raise ConfigError(f"{prefix}name: no value given; known: {', '.join(variants)}")
    if name not in list(variants):
        raise _unknown(f"{prefix}name = {name!r}", list(variants), near=str(name))
    return variants[str(name)]


def _unknown(key: str, known: Sequence[str], *, near: str | None = None) -> ConfigError:
    """What to say about a key, or about a value of it (`near`), that is none of the `known` ones."""
    close = difflib.get_close_matches(near or key, known, n=1, cutoff=0.5)
    return ConfigError(
        f"{key}: no such {'key' if near is None else 'name'}; "
        + (f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}")
    )


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """`--a.b value` and `--a.b=value` -> (key, text)."""
    words = iter(overrides)
    for word in words:
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            raise ConfigError(f"{word!r}: expected --section.field value")
        if not equals:
            following = next(words, None)
            if following is None:
                raise ConfigError(f"{key}: no value follows --{key}")
            text = following
        yield key.replace("-", "_"), text


def _put(cls: type, table: dict[str, Any], key: str, text: str) -> None:
    """Lay one override over the TOML values."""
    *sections, name = key.split(".")
    place: type = cls
    for depth, section in enumerate(sections, 1):
        inner = section_of(types_of(place).get(section))
        if inner is None:
            raise _unknown(key, [entry.key for entry in describe(cls)])
        if not isinstance(table.get(section), dict):
            table[section] = {}
        table = table[section]
        # A new `name` is not held against the one that it replaces.
        place = inner if name == "name" else _variant(inner, table, ".".join(sections[:depth]) + ".")
    if name not in types_of(place):
        raise _unknown(key, [entry.key for entry in describe(cls)])
    table[name] = _parse(types_of(place)[name], text)


def _parse(kind: Any, text: str) -> Any:
    """The TOML value that command-line text stands for. What does not fit is left to `_convert`."""
    kind = split_optional(kind)[0]
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            return text
    if get_origin(kind) is tuple and not text.startswith("["):
        words = text.split(",") if text else []
        inners = element_types(kind, len(words))
        return [_parse(inner, word) for inner, word in zip(inners, words, strict=False)]
    if get_origin(kind) is tuple or section_of(kind) is not None:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    return text


def _convert(kind: Any, value: Any, key: str) -> Any:
    """`value`, as TOML holds it, as a field of type `kind` holds it; ConfigError when it does not fit."""
    inner, optional = split_optional(kind)
    if optional and (value is None or value == "none"):
        return None
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        return from_dict(inner, value, prefix=f"{key}.")
    if get_origin(inner) is tuple and isinstance(value, list):
        kinds = element_types(inner, len(value))
        if len(kinds) == len(value):
            return tuple(_convert(kinds[i], item, f"{key}[{i}]") for i, item in enumerate(value))
    if inner is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    if inner is Path and isinstance(value, str):
        return Path(value)
    if inner in (bool, int, float, str) and type(value) is inner:
        return value
    if get_origin(inner) is Literal and any(value == c and type(value) is type(c) for c in get_args(inner)):
        return value
    raise ConfigError(f"{key} = {value!r}: expected {spelled(kind)}")
