"""Configuration: frozen keyword-only dataclasses; defaults < a TOML file < `--section.field value`.

A field's type is its rule. Understood are bool, int, float, str, Path, Literal, `X | None`, `tuple[X, ...]`,
`tuple[X, Y]` and nested dataclasses (a TOML table each). TOML has no null, so an absent value is written
`"none"`. A field's documentation is the string literal under it, with the unit.

    @dataclass(frozen=True, kw_only=True)
    class OptimConfig:
        lr: float = 3e-6
        \"\"\"Peak learning rate.\"\"\"

    config = load(RunConfig, path=Path("run.toml"), overrides=["--optim.lr", "1e-5"])

A section of several kinds is a dataclass with a class method `variants() -> dict[str, type]`: its key `name`
picks the subclass that reads the other keys. On the command line `--section.name` comes before such keys.

Checks across fields belong in `__post_init__`, which raises `ConfigError` too.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import json
import sys
import textwrap
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from mohist.errors import ConfigError

__all__ = ["FieldDoc", "describe", "dump_toml", "from_dict", "load", "usage"]

T = TypeVar("T")

_SPELLINGS = {bool: "true|false", int: "int", float: "float", str: "text", Path: "path"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDoc:
    """One settable value: its dotted key, its type and default as a user writes them, and its meaning."""

    key: str
    type: str
    default: str | None
    """None: the value must be given."""
    doc: str


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
    kinds = _kinds(cls)
    for name in table:
        if name not in kinds:
            raise _unknown(prefix + name, [prefix + known for known in kinds])
    for name, default in _defaults(cls).items():
        if default is dataclasses.MISSING and name not in table:
            raise ConfigError(f"{prefix}{name}: no value given, and it has no default")
    return cls(**{name: _convert(kinds[name], value, prefix + name) for name, value in table.items()})


def describe(cls: type, *, prefix: str = "") -> list[FieldDoc]:
    """Every settable value under `cls`, nested ones included, in the order of the source."""
    found: list[FieldDoc] = []
    docs, defaults, variants = _attribute_docs(cls), _defaults(cls), _variants(cls)
    for name, kind in _kinds(cls).items():
        if name == "name" and variants:
            kind = Literal.__getitem__(tuple(variants))
        section = _section(kind)
        if section is not None:
            found += describe(section, prefix=f"{prefix}{name}.")
            continue
        default = None if defaults[name] is dataclasses.MISSING else _toml(defaults[name])
        found.append(FieldDoc(key=prefix + name, type=_spell(kind), default=default, doc=docs.get(name, "")))
    known = {entry.key for entry in found}
    for variant, subclass in variants.items():
        if subclass is not cls:
            own = [entry for entry in describe(subclass, prefix=prefix) if entry.key not in known]
            found += [dataclasses.replace(entry, doc=f"({variant}) {entry.doc}") for entry in own]
    return found


def usage(cls: type) -> str:
    """What `--help` says about the fields of `cls`."""
    lines: list[str] = []
    for entry in describe(cls):
        default = "required" if entry.default is None else f"default {entry.default}"
        lines.append(f"  --{entry.key} {entry.type}  ({default})")
        lines += textwrap.wrap(entry.doc, width=88, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def dump_toml(config: Any, *, section: str = "") -> str:
    """The TOML text that `load` turns back into an equal `config`."""
    lines, tables = [f"[{section}]"] if section else [], []
    for name in _kinds(type(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            tables.append(dump_toml(value, section=f"{section}.{name}" if section else name))
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(["\n".join(lines) + "\n" if lines else "", *tables]).lstrip("\n")


@functools.cache
def _kinds(cls: Any) -> dict[str, Any]:
    """Name -> resolved type of every field."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _defaults(cls: Any) -> dict[str, Any]:
    """Name -> default of every field, or MISSING."""
    missing = dataclasses.MISSING
    return {
        field.name: field.default if field.default_factory is missing else field.default_factory()
        for field in dataclasses.fields(cls)
    }


def _variants(cls: Any) -> Mapping[str, Any]:
    """Name -> class of the kinds that a section of type `cls` can be of; empty if it is of one kind only."""
    # A subclass, once picked, is of one kind.
    return cls.variants() if "variants" in vars(cls) else {}


def _variant(cls: Any, table: Mapping[str, Any], prefix: str) -> Any:
    """The class that reads `table`: `cls`, or the kind of it that the table's `name` picks."""
    variants = _variants(cls)
    if not variants:
        return cls
    name = table.get("name", _defaults(cls)["name"])
    if name is dataclasses.MISSING:
        raise ConfigError(f"{prefix}name: no value given; known: {', '.join(variants)}")
    if name not in list(variants):
        raise _unknown(f"{prefix}name = {name!r}", list(variants), near=str(name))
    return variants[str(name)]


def _attribute_docs(cls: type) -> dict[str, str]:
    """Name -> the string literal that follows the field in the source of the class or its bases."""
    docs: dict[str, str] = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in itertools.pairwise(tree.body):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


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
        inner = _section(_kinds(place).get(section))
        if inner is None:
            raise _unknown(key, [entry.key for entry in describe(cls)])
        if not isinstance(table.get(section), dict):
            table[section] = {}
        table = table[section]
        # A new `name` is not held against the one that it replaces.
        place = inner if name == "name" else _variant(inner, table, ".".join(sections[:depth]) + ".")
    if name not in _kinds(place):
        raise _unknown(key, [entry.key for entry in describe(cls)])
    table[name] = _parse(_kinds(place)[name], text)


def _parse(kind: Any, text: str) -> Any:
    """The TOML value that command-line text stands for. What does not fit is left to `_convert`."""
    kind = _split_optional(kind)[0]
    if kind is bool:
        return {"true": True, "false": False}.get(text, text)
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            return text
    if get_origin(kind) is tuple and not text.startswith("["):
        words = text.split(",") if text else []
        return [_parse(inner, word) for inner, word in zip(_elements(kind, len(words)), words, strict=False)]
    if get_origin(kind) is tuple or _section(kind) is not None:
        try:
            return tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    return text


def _convert(kind: Any, value: Any, key: str) -> Any:
    """`value`, as TOML holds it, as a field of type `kind` holds it; ConfigError when it does not fit."""
    inner, optional = _split_optional(kind)
    if optional and (value is None or value == "none"):
        return None
    if dataclasses.is_dataclass(inner) and isinstance(value, Mapping):
        return from_dict(inner, value, prefix=f"{key}.")
    if get_origin(inner) is tuple and isinstance(value, list):
        kinds = _elements(inner, len(value))
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
    raise ConfigError(f"{key} = {value!r}: expected {_spell(kind)}")


def _split_optional(kind: Any) -> tuple[Any, bool]:
    """`X | None` -> (X, True); anything else -> (itself, False)."""
    args = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType) and len(args) == 2 and type(None) in args:
        return next(arg for arg in args if arg is not type(None)), True
    return kind, False


def _section(kind: Any) -> type | None:
    """The nested dataclass that a field of this type holds, if it holds one."""
    inner = _split_optional(kind)[0]
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def _elements(kind: Any, count: int) -> list[Any]:
    """The types of a tuple's elements when it has `count` of them (or of as many as it must have)."""
    args = list(get_args(kind))
    return [args[0]] * count if len(args) == 2 and args[1] is Ellipsis else args


def _spell(kind: Any) -> str:
    """A type as a user reads it: `int`, `fast|slow`, `int,int,...`, `float|none`."""
    inner, optional = _split_optional(kind)
    if get_origin(inner) is Literal:
        text = "|".join(str(choice) for choice in get_args(inner))
    elif get_origin(inner) is tuple:
        args = get_args(inner)
        text = ",".join(
            [*(_spell(arg) for arg in args if arg is not Ellipsis), *["..."] * (Ellipsis in args)]
        )
    elif dataclasses.is_dataclass(inner):
        text = "a table"
    elif inner in _SPELLINGS:
        text = _SPELLINGS[inner]
    else:
        raise TypeError(f"a config field cannot be of type {kind}")
    return f"{text}|none" if optional else text


def _toml(value: Any) -> str:
    """One value on one line of TOML."""
    if value is None:
        return '"none"'
    if dataclasses.is_dataclass(value):
        return (
            "{" + ", ".join(f"{name} = {_toml(getattr(value, name))}" for name in _kinds(type(value))) + "}"
        )
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
