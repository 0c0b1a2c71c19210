"""What a chat template cannot say: how to read the model's answer, and how to ask it to think.

Each module in `mohist.chat.formats` describes one family of models in its `FORMAT`, a `ChatFormat`. Modules
are found by name: a new format is a new file.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Self

from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas
from mohist.chat.template import Template
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError
from mohist.types import ToolCall

__all__ = ["Channels", "ChatFormat", "Effort", "all_formats", "find_format"]

Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
"""How much to think, on a scale that holds those of all models."""

_ARGUMENTS_MAY_BE_TEXT = re.compile(r"""arguments['"\]]* is (?:not )?string""")


@dataclass(frozen=True, kw_only=True)
class Channels:
    """An answer in several messages, each with a header that says what it is (OpenAI's harmony)."""

    starts: tuple[str, ...]
    """Texts that begin a header."""
    body: str
    """The text between a header and its message."""
    ends: tuple[str, ...]
    """Texts that end a message."""
    turn: str
    """What begins a further message of an answer, before its header; the prompt writes it for the first."""
    final: str
    """Before the text of the answer, ..."""
    remark: str
    """... before text beside calls, ..."""
    calls: tuple[str, ...]
    """... and before a call's arguments, JSON: the ways in which models write it. `{name}` is the tool's."""


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a family of models marks thinking, tool calls and the end of a turn."""

    name: str
    signs: tuple[str, ...] = ()
    """Texts by which a template is recognised: all of them are in it. The format with most signs is meant."""
    vocabulary: tuple[str, ...] = ()
    """Tokens by which a model without a template is recognised, likewise."""
    think: tuple[str, str] = ("<think>", "</think>")
    """Texts between which the model thinks."""
    thought: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    """What to write before and after thoughts in the model's place, up to where its answer begins."""
    tool_sections: tuple[tuple[str, str], ...] = ()
    """Texts between which the model calls tools; `parse_tools` reads what is between them. A section that
    ends with "" goes on to the end of the answer. One that begins with "" is the answer as a whole: it is
    looked for where tools were offered and the answer begins with `bare_call`."""
    bare_call: str = ""
    """How an answer begins that is a call without any mark."""
    frame: tuple[str, ...] = ()
    """Texts around the parts of an answer that mean nothing by themselves."""
    channels: Channels | None = None
    """Set where an answer is made of messages with headers; `think` then only tells how thinking begins."""
    inner_markup: tuple[str, ...] = ()
    """Further markup of answers: inside sections and headers, or parts of the texts above."""
    turn_markup: tuple[str, ...] = ()
    """Markup of prompts, which has no place in an answer."""
    stop_texts: tuple[str, ...] = ()
    """Texts of tokens that end a turn, as far as the tokenizer has them."""
    no_content: str | None = ""
    """What the template finds as the content of a message that only calls tools."""
    calls: CallSyntax | None = None
    """How calls are written; None where there are none, or not of a kind that `CallSyntax` can say."""
    call_markup: CallMarkup | None = None
    """How calls are recognised while they are written; `parse_tools` reads what is not written like that."""
    efforts: Mapping[Effort, str] = field(default_factory=dict)
    """What the model calls each level of effort, as its documents say; empty where it knows none, ..."""
    effort_variable: str = "reasoning_effort"
    """... and the variable in which the template takes one."""
    early_stop: str = ""
    """What ends thinking that has used up its budget: the answer goes on after it."""
    default_template: str
    """Jinja source for models that come without a template."""
    default_stop_strings: tuple[str, ...] = ()
    """Ordinary text that ends a turn under `default_template`, where that writes turns as ordinary text."""

    @property
    def answer_markup(self) -> frozenset[str]:
        """Texts that structure an answer."""
        sections = (text for section in self.tool_sections for text in section if text)
        headers = (
            ()
            if self.channels is None
            else (
                *self.channels.starts,
                self.channels.body,
                *self.channels.ends,
            )
        )
        return frozenset((*self.think, *sections, *self.frame, *headers, *self.inner_markup))

    @property
    def markup(self) -> frozenset[str]:
        """Every text with a meaning of its own, which message text must not be able to forge."""
        return self.answer_markup.union(self.turn_markup, self.stop_texts)

    @property
    def without_tools(self) -> Self:
        """The format where no tool may be called: what looks like a call is text."""
        shown = (text for section in self.tool_sections for text in section if text)
        inner = (*self.inner_markup, *shown)
        return replace(self, tool_sections=(), bare_call="", calls=None, inner_markup=inner)

    def arguments_as_text(self, template: Template) -> bool:
        """Whether the template takes arguments of tool calls as JSON text: spelled as the model did."""
        return _ARGUMENTS_MAY_BE_TEXT.search(template.source) is not None

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """The calls that `section`, text between a pair of `tool_sections`, asks for. ValueError if none.

        `schemas` are those of the tools that were offered, for formats that write arguments without types.
        """
        raise ValueError("this format has no tool calls")

    def parse_header(self, header: str) -> tuple[str, str]:
        """The channel that a header names, "" for none, and the tool that its message is for, "" for none."""
        raise NotImplementedError


EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
    "directly now.\n</think>\n\n"
)
"""Of Qwen3's technical report (arXiv 2505.09388, section 4.7), which other models take as well."""


def all_formats() -> dict[str, ChatFormat]:
    """Every format by the name of its module, in alphabetical order."""
    package = importlib.import_module("mohist.chat.formats")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}").FORMAT for name in names}


def find_format(tokenizer: Tokenizer, template: str | None, name: str | None = None) -> ChatFormat:
    """The format called `name`, or else the one whose signs are there, or else "plain"."""
    formats = all_formats()
    if name is not None:
        if name not in formats:
            raise ChatError(f"chat format {name!r} is unknown; known are {', '.join(formats)}")
        return formats[name]
    if template is not None:
        matching = [f for f in formats.values() if f.signs and all(s in template for s in f.signs)]
        return max(matching, key=lambda f: len(f.signs), default=formats["plain"])
    matching = [
        f
        for f in formats.values()
        if f.vocabulary and all(tokenizer.token(t) is not None for t in f.vocabulary)
    ]
    return max(matching, key=lambda f: len(f.vocabulary), default=formats["plain"])
