"""GigaChat 20B-A3B and 3: `ROLE<|role_sep|>` begins a turn, `<|message_sep|>` ends it.

A call of a tool is a turn of its own after the answer's, `function call`.
"""

from __future__ import annotations

from mohist.chat.call_reader import JSON_CALL
from mohist.chat.calls import CallSyntax, Schemas, tool_calls_from_json_texts
from mohist.chat.format import ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT", "GIGACHAT_TEMPLATE", "GigaChat"]

GIGACHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- message['content'] + '<|message_sep|>' }}
{%- else %}
{{- message['role'] + '<|role_sep|>' + message['content'] + '<|message_sep|>' }}
{%- if message['role'] == 'user' %}
{{- 'available functions<|role_sep|>[]<|message_sep|>' }}
{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'assistant<|role_sep|>' }}
{%- endif %}"""

_TURN = "<|message_sep|>\n\nfunction call<|role_sep|>\n"


class GigaChat(ChatFormat):
    """One call in a section, as an object with a name and arguments."""

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """One call: {"name": ..., "arguments": {...}}."""
        return tool_calls_from_json_texts(section)


FORMAT = GigaChat(
    name="gigachat",
    signs=("<|role_sep|>", "<|message_sep|>"),
    vocabulary=("<|role_sep|>", "<|message_sep|>"),
    tool_sections=((_TURN, "<|message_sep|>"),),
    frame=("<|message_sep|>",),
    inner_markup=("<|role_sep|>", "<|message_sep|>"),
    stop_texts=("</s>",),
    call_markup=JSON_CALL,
    calls=CallSyntax(call=(_TURN + '{"name": "{name}", "arguments": ', "}<|message_sep|>")),
    default_template=GIGACHAT_TEMPLATE,
)
