"""Grammars for tool calls, of what a chat format says about how its models write them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mohist.chat.calls import CallSyntax
from mohist.chat.guides.arguments import argument_rules
from mohist.chat.guides.grammar import json_rule, literal
from mohist.chat.guides.notation import notation_rules
from mohist.chat.guides.schema import checked_schema
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError

__all__ = ["CallGrammar", "up_to_stop"]

_MOST_NUMBERED = 16
"""Calls of one answer, in formats that number them."""


@dataclass(frozen=True, kw_only=True)
class CallGrammar:
    """Writes rules for calls of `tools`, which are JSON schemas of arguments by name."""

    tokenizer: Tokenizer
    syntax: CallSyntax
    tools: Mapping[str, Mapping[str, Any]]
    parallel: bool
    """Whether an answer may hold several calls."""

    def calls(self) -> str:
        """Rules of which `calls` is all calls of an answer. Raises RequestError."""
        return self._rules(self.syntax, self.syntax)

    def after(self, trigger: str, *, to_the_end: bool) -> str:
        """The same, from where `trigger` has been written, the beginning of all calls or of one.

        Where it begins one call, the rules end with that, unless calls go on `to_the_end` of the answer.
        Newlines after the trigger are left out.
        """
        syntax = self.syntax
        if syntax.opening:
            begun = replace(syntax, opening=_after(syntax.opening, trigger))
            return self._rules(begun, begun)
        before, after = syntax.call
        begun = replace(syntax, call=(_after(before, trigger), after))
        if to_the_end:
            return self._rules(begun, syntax)
        return replace(self, parallel=False)._rules(begun, begun)

    def _rules(self, first: CallSyntax, others: CallSyntax) -> str:
        """Rules for a call that is written as `first` says and calls as `others` says."""
        opening, closing = self._literal(first.opening), self._literal(first.closing)
        between = self._literal(others.between)
        rules = self._call("first", first, 0)
        if not self.parallel:
            return rules + f"calls: {opening} first {closing}\n"
        if not _is_numbered(others):
            rules += self._call("other", others, 1)
            return rules + f"calls: {opening} first ({between} other)* {closing}\n"
        for index in range(1, _MOST_NUMBERED):
            rules += self._call(f"other_{index}", others, index)
            rules += f"more_{index}: ({between} other_{index} more_{index + 1})?\n"
        return rules + f'more_{_MOST_NUMBERED}: ""\ncalls: {opening} first more_1 {closing}\n'

    def _call(self, rule: str, syntax: CallSyntax, index: int) -> str:
        """`rule` for a call of any tool."""
        names = [f"{rule}_tool_{i}" for i in range(len(self.tools))]
        rules = f"{rule}: {' | '.join(names)}\n"
        for name, (tool, schema) in zip(names, self.tools.items(), strict=True):
            before, after = (self._literal(_filled(text, tool, index)) for text in syntax.call)
            rules += f"{name}: {before} {name}_arguments {after}\n"
            where = f"the schema of tool {tool!r}"
            rules += self._arguments(f"{name}_arguments", syntax, schema, where)
        return rules

    def _arguments(self, rule: str, syntax: CallSyntax, schema: Mapping[str, Any], where: str) -> str:
        if syntax.notation is not None:
            return notation_rules(self.tokenizer, syntax.notation, rule, schema, where)
        if syntax.argument is not None:
            return argument_rules(self.tokenizer, syntax.argument, rule, schema, where)
        return f"{rule}: {json_rule(checked_schema(schema, where))}\n"

    def _literal(self, text: str) -> str:
        return literal(self.tokenizer, text)


def up_to_stop(syntax: CallSyntax, tokenizer: Tokenizer, stop_tokens: Collection[int]) -> CallSyntax:
    """`syntax` without the tokens at its end that end the answer: they come where it is complete.

    Raises RequestError if such a token stands anywhere else, since no call can be written then.
    """
    before, after = syntax.call
    if syntax.closing:
        ended = replace(syntax, closing=_cut(syntax.closing, tokenizer, stop_tokens))
    else:
        ended = replace(syntax, call=(before, _cut(after, tokenizer, stop_tokens)))
    pieces = tokenizer.split("".join((ended.opening, *ended.call, ended.between, ended.closing)))
    stop = next((piece for piece in pieces if isinstance(piece, int) and piece in stop_tokens), None)
    if stop is not None:
        raise RequestError(
            f"tools: {tokenizer.markup[stop]!r} ends the answers of this model, but is part of its calls, so "
            "they can be neither strict nor required: leave that out"
        )
    return ended


def _cut(text: str, tokenizer: Tokenizer, stop_tokens: Collection[int]) -> str:
    """`text` without stop tokens at its end."""
    for token in stop_tokens:
        if token in tokenizer.markup:
            text = text.removesuffix(tokenizer.markup[token])
    return text


def _after(text: str, trigger: str) -> str:
    if not text.startswith(trigger):
        raise RequestError("tools: strict tools are not supported for this model's format of calls")
    return text.removeprefix(trigger).lstrip("\n")


def _is_numbered(syntax: CallSyntax) -> bool:
    text = "".join(syntax.call)
    return _filled(text, "", 0) != _filled(text, "", 1)


def _filled(text: str, name: str, index: int) -> str:
    fields = {"name": name, "index": str(index), "index1": str(index + 1), "number": str(index + 1)}
    for field, value in fields.items():
        text = text.replace(f"{{{field}}}", value)
    return text
