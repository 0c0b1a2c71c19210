"""ChatML: SmolLM2 and 3, Qwen2.5 and Qwen3. `<|im_start|>` begins a turn, `<|im_end|>` ends it.

Qwen3 turns thinking on and off by a switch of its template, or by `/think` and `/no_think` in a message of
the user or the system, which are words to the model and nothing to us. SmolLM3's template reads the same two
words in the system message. A tool may be called in the middle of thinking, which that ends.
"""

from __future__ import annotations

from mohist.chat.call_reader import JSON_CALL
from mohist.chat.calls import CallSyntax, Schemas, tool_calls_from_json_texts
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.types import ToolCall

__all__ = ["CHATML_TEMPLATE", "FORMAT"]

CHATML_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


class ChatML(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """One call, or several: {"name": ..., "arguments": {...}}."""
        return tool_calls_from_json_texts(section)


FORMAT = ChatML(
    name="chatml",
    signs=("<|im_start|>",),
    vocabulary=("<|im_start|>", "<|im_end|>"),
    tool_sections=(("<tool_call>", "</tool_call>"),),
    turn_markup=("<|im_start|>", "<tool_response>", "</tool_response>"),
    stop_texts=("<|im_end|>", "<|endoftext|>"),
    call_markup=JSON_CALL,
    calls=CallSyntax(call=('<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>"), between="\n"),
    early_stop=EARLY_STOP,
    default_template=CHATML_TEMPLATE,
)
