"""Kimi K2, K2 Thinking and K2.5: `<|im_user|>NAME<|im_middle|>` begins a turn, `<|im_end|>` ends it.

K2 Thinking keeps its thoughts since the last answer without calls of tools; those before are emptied. The id
of a call is `functions.NAME:NUMBER`, by which the model finds its result again.
"""

from __future__ import annotations

import re

from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_json
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_' + (message['role'] if message['role'] in ('user', 'assistant') else 'system') + '|>' }}
{{- message['role'] + '<|im_middle|>' + (message['content'] or '').split('</think>')[-1] + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_assistant|>assistant<|im_middle|>' }}
{%- endif %}"""

_CALL = re.compile(
    r"\s*<\|tool_call_begin\|>(?P<id>[^<]*)<\|tool_call_argument_begin\|>(?P<arguments>.*?)<\|tool_call_end\|>\s*",
    re.DOTALL,
)
_MARKUP = CallMarkup(
    before=re.compile(
        r"\s*<\|tool_call_begin\|>\s*(?P<id>(?:functions\.)?(?P<name>[\w.-]+?)(?::\d+)?)\s*"
        r"<\|tool_call_argument_begin\|>\s*(?=\{)"
    ),
    after=re.compile(r"\s*<\|tool_call_end\|>"),
)
_ID = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?", re.DOTALL)


class Kimi(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of a section."""
        calls = matches_in_turn(_CALL, section)
        if not calls:
            raise ValueError("a section of tool calls must hold at least one")
        return tuple(_call(call["id"].strip(), call["arguments"].strip()) for call in calls)


def _call(call_id: str, arguments: str) -> ToolCall:
    name = _ID.fullmatch(call_id)
    return tool_call_from_json("" if name is None else name[1], arguments, call_id=call_id)


FORMAT = Kimi(
    name="kimi",
    signs=("<|im_middle|>",),
    vocabulary=("<|im_middle|>",),
    thought=("<think>", "</think>"),
    tool_sections=(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),),
    inner_markup=("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    turn_markup=("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
    stop_texts=("<|im_end|>", "[EOS]"),
    call_markup=_MARKUP,
    calls=CallSyntax(
        opening="<|tool_calls_section_begin|>",
        call=(
            "<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
        closing="<|tool_calls_section_end|>",
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
