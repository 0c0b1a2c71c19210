"""Kimi K3: parts of an answer between `<|open|>TAG<|sep|>` and `<|close|>TAG<|sep|>`.

An answer is a `think` part, a `response` and, to call tools, a `tools` part. With thinking off the prompt
opens the response itself. All thoughts stay in the history.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import Any

from mohist.chat.arguments import TagArguments, TagSyntax
from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_json
from mohist.chat.format import ChatFormat
from mohist.chat.template import Template
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{%- set thinks = thinking if thinking is defined else true %}
{%- if thinks %}
{{- '<|open|>message role="system" type="thinking-effort"<|sep|>' }}
{{- '`thinking_effort` guides on how much to think in your thinking channel (not including the response ' }}
{{- 'channel), supported values include `low`, `medium`, `high`, and `max`.\\nNow the system is invoked ' }}
{{- 'with `thinking_effort=' + (thinking_effort or 'max') + '`.<|close|>message<|sep|><|end_of_msg|>' }}
{%- endif %}
{%- for message in messages %}
{{- '<|open|>message role="' + message['role'] + '"<|sep|>' }}
{%- if message['role'] == 'assistant' %}
{%- if thinks %}
{{- '<|open|>think<|sep|>' + (message['reasoning_content'] or '') + '<|close|>think<|sep|>' }}
{%- endif %}
{{- '<|open|>response<|sep|>' + (message['content'] or '') + '<|close|>response<|sep|>' }}
{%- else %}
{{- message['content'] }}
{%- endif %}
{{- '<|close|>message<|sep|><|end_of_msg|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|open|>message role="assistant"<|sep|><|open|>' + ('think' if thinks else 'response') + '<|sep|>' }}
{%- endif %}"""

_CALL = re.compile(
    r'\s*<\|open\|>call tool="(?P<name>[^"]*)"[^<]*<\|sep\|>(?P<body>.*?)<\|close\|>call<\|sep\|>\s*',
    re.DOTALL,
)
_JSON = re.compile(r"\s*<\|open\|>json[^<]*<\|sep\|>(.*?)<\|close\|>json<\|sep\|>\s*", re.DOTALL)
_ARGUMENT = re.compile(
    r'\s*<\|open\|>argument key="(?P<key>[^"]*)" type="(?P<type>\w+)"<\|sep\|>'
    r"(?P<value>.*?)<\|close\|>argument<\|sep\|>\s*",
    re.DOTALL,
)


class KimiK3(ChatFormat):
    def arguments_as_text(self, template: Template) -> bool:
        """The template writes text as one block of JSON, which only a call without a known type needs."""
        return False

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of the part; an argument says its type."""
        calls = matches_in_turn(_CALL, section)
        if not calls:
            raise ValueError("the tools part must hold calls")
        return tuple(tool_call_from_json(_plain(call["name"]), _arguments(call["body"])) for call in calls)


def _arguments(body: str) -> Any:
    if block := _JSON.fullmatch(body):
        return block[1].strip()
    return {_plain(found["key"]): _value(found) for found in matches_in_turn(_ARGUMENT, body)}


def _value(argument: re.Match[str]) -> Any:
    return argument["value"] if argument["type"] == "string" else json.loads(argument["value"])


def _plain(attribute: str) -> str:
    return attribute.replace("&quot;", '"').replace("&amp;", "&")


_MARKUP = CallMarkup(
    before=re.compile(
        r'\s*<\|open\|>call tool="(?P<name>[^"&]*)"[^<]*<\|sep\|>'
        r"(?=\s*(?:<\|open\|>argument|<\|close\|>call))"
    ),
    arguments=partial(
        TagArguments,
        TagSyntax(
            before=re.compile(r'\s*<\|open\|>argument key="(?P<key>[^"]*)" type="(?P<kind>\w+)"<\|sep\|>'),
            end="<|close|>argument<|sep|>",
            after=re.compile(r"\s*<\|close\|>call<\|sep\|>"),
            key=_plain,
        ),
    ),
)

FORMAT = KimiK3(
    name="kimi_k3",
    signs=("<|open|>", "<|sep|>", "<|end_of_msg|>"),
    vocabulary=("<|open|>", "<|sep|>", "<|end_of_msg|>"),
    think=("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    thought=("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    tool_sections=(("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),),
    frame=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    inner_markup=("<|open|>", "<|close|>", "<|sep|>"),
    stop_texts=("<|end_of_msg|>",),
    call_markup=_MARKUP,
    calls=CallSyntax(
        opening="<|open|>tools<|sep|>",
        call=('<|open|>call tool="{name}" index="{number}"<|sep|>', "<|close|>call<|sep|>"),
        closing="<|close|>tools<|sep|>",
        argument=('<|open|>argument key="{key}" type="{type}"<|sep|>', "<|close|>argument<|sep|>"),
    ),
    efforts={
        "minimal": "low",
        "low": "low",
        "medium": "high",
        "high": "high",
        "xhigh": "max",
        "max": "max",
    },
    effort_variable="thinking_effort",
    early_stop="<|close|>think<|sep|><|open|>response<|sep|>",
    default_template=_TEMPLATE,
)
