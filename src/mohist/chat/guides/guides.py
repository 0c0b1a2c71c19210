"""The guides of a model, made for what a request asks of its answer's form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mohist.chat.chat import Chat
from mohist.chat.guides.answer import AnswerGuide, Budget, Plan
from mohist.chat.guides.calls import CallGrammar, up_to_stop
from mohist.chat.guides.channels import ChannelGrammar
from mohist.chat.guides.form import Form, ToolForm
from mohist.chat.guides.grammar import Grammar, json_rule, regex_rule
from mohist.chat.guides.schema import JSON_OBJECT, checked_schema
from mohist.chat.guides.vocabulary import Vocabulary
from mohist.errors import RequestError
from mohist.types import GuideFactory

__all__ = ["Form", "Guides", "ToolForm"]

MAX_PATTERN_CHARS = 8192
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NEWLINES = r"/\n\n?/"
"""What models write between the end of their thinking and the answer; no part of either."""


class Guides:
    """Makes guides for the answers of one model. Threads may share it."""

    def __init__(self, chat: Chat, vocab_size: int) -> None:
        """`vocab_size` is that of the model's logits."""
        self._chat = chat
        self._vocabulary = Vocabulary(chat.tokenizer, vocab_size)

    def prepare(self) -> None:
        """Make what the first guide of a model needs, once, in a second or two. Raises RequestError."""
        _ = self._vocabulary.grammars

    def factory(
        self, form: Form, prompt: Sequence[int], *, stop_tokens: Iterable[int] = (), raw: bool = False
    ) -> GuideFactory | None:
        """What makes guides for the samples of an answer to `prompt`; None if `form` asks for nothing.

        The answer ends with one of `stop_tokens` (default: the chat's). `raw`: the prompt is plain text, and
        so is the answer. Compiling a schema takes milliseconds, up to a second; the first one of a model a
        second more. Raises RequestError that says what cannot be done.
        """
        if form.is_free:
            return None
        stops = tuple(stop_tokens) or self._chat.stop_tokens
        plan = self._raw_plan(form, stops) if raw else self._chat_plan(form, prompt, stops)
        AnswerGuide(plan).allowed()  # what takes long once must not hold up the engine
        return partial(AnswerGuide, plan)

    def _raw_plan(self, form: Form, stops: tuple[int, ...]) -> Plan:
        if form.calls != "free" or form.thinking_budget is not None:
            raise RequestError("a plain text has neither thinking nor calls of tools: ask in a chat")
        return Plan(
            vocabulary=self._vocabulary,
            reader=_PlainReader,
            stop_tokens=stops,
            think_end=b"",
            grammar=self._grammar(form, stops, after_thinking=False),
        )

    def _chat_plan(self, form: Form, prompt: Sequence[int], stops: tuple[int, ...]) -> Plan:
        chat, kind = self._chat, self._chat.format
        if kind.channels is not None:
            return self._channel_plan(form, prompt, stops)
        thinks = chat.opens_thinking(prompt)
        may_think = not thinks and chat.thinking_mode in ("switch", "unclear") and not self._closed(prompt)
        think_opening = self._think_opening if may_think else ()
        formed = form.is_whole
        calls = self._call_parts(form, stops) if form.tools and (formed or form.calls != "free") else {}
        return Plan(
            vocabulary=self._vocabulary,
            reader=partial(chat.stream, prompt, tools=form.offered),
            stop_tokens=stops,
            think_end=kind.think[1].encode(),
            think_opening=think_opening,
            hidden=self._hidden,
            budget=self._budget(form.thinking_budget),
            grammar=self._grammar(form, stops, after_thinking=False) if formed and not thinks else None,
            grammar_after=self._grammar(form, stops, after_thinking=True)
            if formed and (thinks or think_opening)
            else None,
            parallel=form.parallel,
            **calls,
        )

    def _channel_plan(self, form: Form, prompt: Sequence[int], stops: tuple[int, ...]) -> Plan:
        """For answers in several messages: their headers, and thoughts, are part of the grammar."""
        chat, kind = self._chat, self._chat.format
        assert kind.channels is not None
        formed = form.is_whole or form.calls != "free"
        what, answer = _answer_rule(form)
        free = None if form.calls == "required" else "text"
        channels = ChannelGrammar(
            tokenizer=chat.tokenizer,
            kind=kind,
            tools=_schemas(form, as_text=False) if formed else {},
            answer=answer or free,
            remarks=form.calls == "strict" and not form.is_whole,
            thinks_once=form.thinking_budget is not None,
        )
        budget = self._budget(form.thinking_budget)
        if budget is not None and form.calls == "required":
            closing = tuple(chat.tokenizer.encode(kind.think[1] + kind.channels.turn))
            budget = replace(budget, closing=closing, closing_at_once=closing)
        markup = (token for token, text in chat.tokenizer.markup.items() if text in kind.answer_markup)
        return Plan(
            vocabulary=self._vocabulary,
            reader=partial(chat.stream, prompt, tools=form.offered),
            stop_tokens=stops,
            think_end=b"",
            hidden=self._hidden,
            budget=budget,
            grammar=Grammar(self._vocabulary, channels.rules(), what) if formed else None,
            thinks_in_grammar=True,
            spelled=tuple(map(chat.tokenizer.token_bytes, markup)),
        )

    @property
    def _hidden(self) -> frozenset[int]:
        kind = self._chat.format
        return frozenset(
            t for t, text in self._chat.tokenizer.markup.items() if text not in kind.answer_markup
        )

    @property
    def _think_opening(self) -> tuple[int, ...]:
        """The tokens with which a model begins to think; none if its first may as well begin a call."""
        kind, tokenizer = self._chat.format, self._chat.tokenizer
        opening = tokenizer.encode(kind.think[0])
        calls = "" if kind.calls is None else kind.calls.opening + kind.calls.call[0]
        may_be_call = len(opening) > 1 and calls.startswith(tokenizer.decode(opening[:1]))
        return () if may_be_call or opening[0] not in tokenizer.markup else tuple(opening)

    def _closed(self, prompt: Sequence[int]) -> bool:
        """Whether the template closed thinking, so that the answer comes at once."""
        text = self._chat.tokenizer.decode(prompt[-32:])
        return text.rstrip().endswith(self._chat.format.think[1])

    def _budget(self, tokens: int | None) -> Budget | None:
        if tokens is None:
            return None
        kind, tokenizer = self._chat.format, self._chat.tokenizer
        closing = kind.early_stop or f"\n{kind.think[1]}\n\n"
        at_once = closing[closing.index(kind.think[1]) :]
        return Budget(
            tokens=tokens,
            closing=tuple(tokenizer.encode(closing)),
            closing_at_once=tuple(tokenizer.encode(at_once)),
        )

    def _grammar(self, form: Form, stops: tuple[int, ...], *, after_thinking: bool) -> Grammar:
        """Of an answer that is nothing but what `form` asks for."""
        what, answer = _answer_rule(form)
        rules = "" if answer is None else f"answer: {answer}\n"
        choices = (["answer"] if rules else []) + (["calls"] if form.tools else [])
        rules += self._call_grammar(form, stops).calls() if form.tools else ""
        newlines = "NEWLINES? " if after_thinking else ""
        start = f"start: {newlines}({' | '.join(choices)})\nNEWLINES: {_NEWLINES}\n"
        return Grammar(self._vocabulary, start + rules, what)

    def _call_grammar(self, form: Form, stops: tuple[int, ...]) -> CallGrammar:
        syntax = self._chat.format.calls
        if syntax is None:
            raise RequestError(
                f"tools: the chat format {self._chat.format.name!r} does not say how calls are written, so "
                "they can be neither strict nor required: leave that out"
            )
        ended = up_to_stop(syntax, self._chat.tokenizer, stops)
        return CallGrammar(
            tokenizer=self._chat.tokenizer,
            syntax=ended,
            tools=_schemas(form, as_text=syntax.argument is not None),
            parallel=form.parallel and ended.call == syntax.call,
        )

    def _call_parts(self, form: Form, stops: tuple[int, ...]) -> dict[str, Any]:
        """The fields of a `Plan` that are about calls."""
        grammar, tokenizer, kind = self._call_grammar(form, stops), self._chat.tokenizer, self._chat.format
        syntax = grammar.syntax
        begin = syntax.opening + syntax.call[0]
        # Where a call needs no mark, it may still have one.
        marks = [
            pair for pair in kind.tool_sections if pair[0] and (kind.bare_call or begin.startswith(pair[0]))
        ]
        opener, closer = max(marks, key=lambda pair: len(pair[0]))
        quote = "" if syntax.notation is None else syntax.notation.quote
        written = tokenizer.split("".join((begin, quote, syntax.call[1], syntax.between, syntax.closing)))
        parts: dict[str, Any] = {
            "closer": closer.encode() if closer not in begin else b"",
            "spelled": tuple(tokenizer.token_bytes(piece) for piece in written if isinstance(piece, int)),
        }
        if form.is_whole:
            return parts | {"no_trigger": opener.encode()}
        start = f"start: NEWLINES? calls\nNEWLINES: {_NEWLINES}\n"
        if kind.bare_call:
            rules = grammar.calls()
            bare = Grammar(self._vocabulary, f"start: SPACE? calls\nSPACE: /\\s+/\n{rules}", "tools")
            parts |= {"bare_call": kind.bare_call.encode(), "bare": bare}
        else:
            rules = grammar.after(opener, to_the_end=not closer)
        section = Grammar(self._vocabulary, start + rules, "tools")
        goes_on = bool(closer) and syntax == kind.calls
        return parts | {"trigger": opener.encode(), "section": section, "section_ends": goes_on}


def _answer_rule(form: Form) -> tuple[str, str | None]:
    """What is asked for, and the right side of a rule for the answer's text; None if only calls are."""
    if form.schema is not None:
        return "schema", json_rule(checked_schema(form.schema))
    if form.pattern is None:
        return "tools", None
    if len(form.pattern) > MAX_PATTERN_CHARS:
        raise RequestError(
            f"the pattern has {len(form.pattern)} characters; at most {MAX_PATTERN_CHARS} are taken"
        )
    return f"pattern {form.pattern!r:.80}", regex_rule(form.pattern)


def _schemas(form: Form, *, as_text: bool) -> dict[str, Mapping[str, Any]]:
    """The schema that the arguments of each tool must fit: always of an object.

    Where arguments are written `as_text`, those of tools that are not strict are any text.
    """
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in form.tools:
        if not _TOOL_NAME.fullmatch(tool.name):
            raise RequestError(f"tool {tool.name!r:.80}: a name is 1 to 64 letters, digits, '_', '-' or '.'")
        if tool.name in schemas:
            raise RequestError(f"tool {tool.name!r}: there are two of this name")
        kind = tool.parameters.get("type", "object")
        if kind != "object":
            raise RequestError(f"tool {tool.name!r}: its parameters are of type {kind!r:.80}, not an object")
        schemas[tool.name] = {"type": "object", **tool.parameters} if tool.strict else JSON_OBJECT
        if as_text and not tool.strict:
            names = tool.parameters.get("properties", {})
            schemas[tool.name] = {
                "type": "object",
                "properties": {name: {"type": "string"} for name in names},
            }
    return schemas


class _PlainReader:
    """A reader of text that is nothing but text."""

    thinking = undecided = calling = inside_character = False

    def push(self, token: int) -> None:
        """See `Reader`."""
