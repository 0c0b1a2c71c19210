"""Llama 3: headers before turns, `<|eot_id|>` after them.

A call of a tool is an answer that is nothing but JSON, with or without `<|python_tag|>` before it; it is
looked for where tools were offered.
"""

from __future__ import annotations

from mohist.chat.call_reader import JSON_CALL
from mohist.chat.calls import CallSyntax, Schemas, tool_calls_from_json_texts
from mohist.chat.format import ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- (message['content'] or '') | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""


class Llama3(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """{"name": ..., "parameters": {...}}; several may be parted by semicolons."""
        return tool_calls_from_json_texts(section)


FORMAT = Llama3(
    name="llama3",
    signs=("<|start_header_id|>",),
    vocabulary=("<|start_header_id|>", "<|eot_id|>"),
    tool_sections=(("<|python_tag|>", ""), ("", "")),
    bare_call='{"name"',
    turn_markup=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>"),
    stop_texts=("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
    call_markup=JSON_CALL,
    calls=CallSyntax(call=('{"name": "{name}", "parameters": ', "}")),
    default_template=_TEMPLATE,
)
