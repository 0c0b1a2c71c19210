"""Mistral and Magistral: `[INST]` and `[/INST]` around what the user says, `</s>` after an answer.

Models that reason write their thoughts between `[THINK]` and `[/THINK]`. Calls of tools come at the end of an
answer: `[TOOL_CALLS]NAME[ARGS]{...}` for each, or in older models `[TOOL_CALLS]` and a list of objects.
"""

from __future__ import annotations

import re

from mohist.chat.call_reader import JSON_CALL, CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, tool_call_from_json, tool_calls_from_json_texts
from mohist.chat.format import ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}
{%- elif message['role'] == 'user' %}
{{- '[INST]' + message['content'] + '[/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- message['content'] + eos_token }}
{%- endif %}
{%- endfor %}"""

_CALL = re.compile(r"\s*([^\s\[{]+)(?:\[CALL_ID\](\w+))?\[ARGS\](.*)", re.DOTALL)

_MARKUP = CallMarkup(
    before=re.compile(
        r'(?:(?:\s*\[TOOL_CALLS\])?\s*|[\s,\[]*\{\s*"name"\s*:\s*")(?P<name>[^\s\[{"]+)'
        r'(?:(?:\[CALL_ID\](?P<id>\w+))?\[ARGS\]\s*|"\s*,\s*"arguments"\s*:\s*)(?=\{)'
    ),
    after=JSON_CALL.after,
)


class Mistral(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of the answer."""
        if section.lstrip().startswith(("[{", "{")):
            return tool_calls_from_json_texts(section)
        return tuple(map(_call, section.split("[TOOL_CALLS]")))


def _call(text: str) -> ToolCall:
    written = _CALL.fullmatch(text)
    if written is None:
        raise ValueError("a tool call needs a name, [ARGS] and arguments")
    return tool_call_from_json(written[1], written[3].strip(), call_id=written[2] or "")


FORMAT = Mistral(
    name="mistral",
    signs=("[INST]", "[/INST]"),
    vocabulary=("[INST]", "[/INST]"),
    think=("[THINK]", "[/THINK]"),
    thought=("[THINK]", "[/THINK]"),
    tool_sections=(("[TOOL_CALLS]", ""),),
    inner_markup=("[ARGS]", "[CALL_ID]"),
    turn_markup=(
        *("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]"),
        *("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]", "[IMG]"),
    ),
    stop_texts=("</s>",),
    call_markup=_MARKUP,
    calls=CallSyntax(call=("[TOOL_CALLS]{name}[ARGS]", "")),
    early_stop="[/THINK]",
    default_template=_TEMPLATE,
)
