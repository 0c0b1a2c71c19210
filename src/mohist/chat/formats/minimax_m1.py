"""MiniMax M1: `<beginning_of_sentence>` and `<end_of_sentence>` around turns, calls as lines of JSON."""

from __future__ import annotations

from mohist.chat.call_reader import JSON_CALL
from mohist.chat.calls import CallSyntax, Schemas, tool_calls_from_json_texts
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- '<begin_of_document>' }}
{%- set names = {'system': 'system ai_setting=assistant', 'user': 'user name=user'} %}
{%- if messages[0]['role'] != 'system' %}
{{- '<beginning_of_sentence>system ai_setting=assistant\\n' }}
{{- 'You are a helpful assistant created by Minimax based on MiniMax-M1 model.<end_of_sentence>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<beginning_of_sentence>' + names.get(message['role'], 'ai name=assistant') + '\\n' }}
{{- message['content'] | trim + '<end_of_sentence>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<beginning_of_sentence>ai name=assistant\\n' }}
{%- endif %}"""


class MiniMaxM1(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of a section, a line for each."""
        return tool_calls_from_json_texts(section)


FORMAT = MiniMaxM1(
    name="minimax_m1",
    signs=("<beginning_of_sentence>", "<end_of_sentence>"),
    vocabulary=("<beginning_of_sentence>", "<end_of_sentence>"),
    tool_sections=(("<tool_calls>", "</tool_calls>"),),
    turn_markup=("<begin_of_document>", "<beginning_of_sentence>"),
    stop_texts=("<end_of_sentence>",),
    call_markup=JSON_CALL,
    calls=CallSyntax(
        opening="<tool_calls>\n", call=('{"name": "{name}", "arguments": ', "}\n"), closing="</tool_calls>"
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
