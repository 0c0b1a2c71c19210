"""The Jinja environment in which chat templates run: what Hugging Face's has, within limits.

A template is somebody else's program. It runs in Jinja's sandbox (no Python internals, no change to what it
is given, no other files) and on a budget of steps, time and sizes. Steps are what normally ends a runaway
template, so that whether one is accepted does not depend on how busy the machine is; the clock is the last
resort.

One thing is allowed that Hugging Face refuses: Kimi K2's published templates keep the ids of calls in a list,
to which they append and from which they pop. A list that the template itself wrote may change in these ways.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sized
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import do_indent
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from mohist.chat.limits import Counted, OwnList, check_fields, check_product, check_size, check_widths
from mohist.chat.mask import MaskedText

__all__ = ["BUDGET", "environment"]

BUDGET = "mohist budget"
"""Where a rendering's `Budget` is kept: the space makes it a name that no template can say."""

_OUTSIDE_ASCII = re.compile("[\x7f-\U000fffff]")


class _Guard(NodeTransformer):
    """Sends what the sandbox does not watch through filters: loops, `~`, lists, `{% set %}` blocks."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(cast("nodes.Expr", node.iter), "count steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.Tuple(node.nodes, "load", lineno=node.lineno), "join texts")

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.AssignBlock:
        self.generic_visit(node)
        node.filter = _filter(node.filter, "check size")
        return node

    def visit_List(self, node: nodes.List) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(node, "own list")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(node, "check size")

    def visit_Name(self, node: nodes.Name) -> nodes.Expr:
        implicit = node.ctx == "load" and node.name in ("varargs", "kwargs")
        return _filter(node, "check size") if implicit else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, "check size") if node.ctx == "load" else node


def _filter(node: nodes.Expr | None, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=1 if node is None else node.lineno)


class _Namespace(Namespace):
    """Jinja's `namespace`, but not to be written out: what is inside it is not counted."""

    def __repr__(self) -> str:
        raise SecurityError("the template writes out a namespace")


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Guard().visit(super()._parse(source, name, filename))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, OwnList) and attr in ("append", "pop"):
            return True
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        context.parent[BUDGET].step()
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps str.format
        if isinstance(owner := getattr(method, "__self__", None), str):
            check_widths((*args, *kwargs.values()))
            if method.__name__ in ("format", "format_map"):
                check_fields(owner)
        return check_size(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            check_fields(left)
        elif operator in ("*", "**"):
            check_product(operator, left, right)
        return check_size(super().call_binop(context, operator, left, right))


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training; it renders as if it were not there."""

    tags = {"generation"}  # noqa: RUF012 (how Jinja wants it)

    def parse(self, parser: Parser) -> nodes.Node:
        """The body in a scope of its own, as in Hugging Face's extension."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def environment() -> jinja2.Environment:
    """A fresh environment with Hugging Face's filters, globals and white-space rules."""
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    for name in ("center", "filesizeformat", "format", "pprint", "random", "urlize", "wordwrap", "xmlattr"):
        del made.filters[name]  # unbounded or random, and of no use in a prompt
    del made.globals["lipsum"]
    made.filters |= {
        "indent": _indent,
        "replace": _replace,
        "tojson": _tojson,
        "check size": _check_size_late,
        "count steps": _count_steps,
        "join texts": _join_texts,
        "own list": _own_list,
    }
    cast("dict[str, Any]", made.globals).update(
        {"raise_exception": _raise_exception, "dict": _make_dict, "namespace": _Namespace}
    )
    return made


@jinja2.pass_context
def _count_steps(context: Context, items: Any) -> Iterable[Any]:
    budget = context.parent[BUDGET]
    return Counted(items, budget) if isinstance(items, Sized) else budget.count(items)


@jinja2.pass_context
def _join_texts(context: Context, parts: tuple[Any, ...]) -> str:
    """`~`, which keeps masked text masked."""
    texts = [part if isinstance(part, str) else str(part) for part in parts]
    joined = check_size("".join(texts))
    masked = next((text for text in texts if isinstance(text, MaskedText)), None)
    return joined if masked is None else type(masked)(joined)


@jinja2.pass_context
def _check_size_late(context: Context, value: Any) -> Any:
    """`check_size` at run time: the context keeps Jinja's optimiser from calling it while compiling."""
    return check_size(value)


@jinja2.pass_context
def _own_list(context: Context, items: list[Any]) -> OwnList:
    return OwnList(items)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text = text if isinstance(text, str) else str(text)
    return check_size(text.replace(old, new, -1 if count is None else count))


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    check_widths((width,))
    return check_size(do_indent(text, width, first, blank))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as Hugging Face's templates expect it: no HTML escaping, characters as they are."""
    check_widths((indent,))
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    if not ensure_ascii:
        return text
    # The encoder's own `ensure_ascii` would escape the stand-ins of masked text as well.
    return _OUTSIDE_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _make_dict(*args: Any, **items: Any) -> dict[str, Any]:
    return dict(*args, **items)
