"""A configuration as people read it: every field with its meaning, and TOML."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

from mohist.config.fields import defaults_of, section_of, spelled, types_of, variants_of

__all__ = ["FieldDoc", "describe", "dump_toml", "usage"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldDoc:
    """One settable value: its dotted key, its type and default as a user writes them, and its meaning."""

    key: str
    type: str
    default: str | None
    """None: the value must be given."""
    doc: str


def describe(cls: type, *, prefix: str = "") -> list[FieldDoc]:
    """Every settable value under `cls`, nested ones included, in the order of the source."""
    found: list[FieldDoc] = []
    docs, defaults, variants = _attribute_docs(cls), defaults_of(cls), variants_of(cls)
    for name, kind in types_of(cls).items():
        if name == "name" and variants:
            kind = Literal.__getitem__(tuple(variants))
        section = section_of(kind)
        if section is not None:
            found += describe(section, prefix=f"{prefix}{name}.")
            continue
        default = None if defaults[name] is dataclasses.MISSING else _toml(defaults[name])
        found.append(FieldDoc(key=prefix + name, type=spelled(kind), default=default, doc=docs.get(name, "")))
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
    for name in types_of(type(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            tables.append(dump_toml(value, section=f"{section}.{name}" if section else name))
        else:
            lines.append(f"{name} = {_toml(value)}")
    return "\n".join(["\n".join(lines) + "\n" if lines else "", *tables]).lstrip("\n")


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


def _toml(value: Any) -> str:
    """One value on one line of TOML."""
    if value is None:
        return '"none"'
    if dataclasses.is_dataclass(value):
        return (
            "{" + ", ".join(f"{name} = {_toml(getattr(value, name))}" for name in types_of(type(value))) + "}"
        )
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
