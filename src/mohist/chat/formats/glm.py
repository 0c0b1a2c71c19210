"""GLM-4.5 to GLM-5. `<|user|>`, `<|assistant|>` and `<|observation|>` begin turns, and so end the one before.

Thinking is switched off by `/nothink` at the end of the user's message and an empty `<think></think>` (4.5
and 4.6), or by `</think>` right at the start of the answer (4.7 and later). Thoughts before the last question
of the user are left out of the history, unless `clear_thinking` is false (4.7 and later).
"""

from __future__ import annotations

import re
from functools import partial

from mohist.chat.arguments import TagArguments, TagSyntax
from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_texts
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT", "GLM_CALLS", "GLM_MARKUP", "GLM_STOPS", "Glm"]

_TEMPLATE = """\
{{- '[gMASK]<sop>' }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|assistant|>\\n<think></think>\\n' + (message['content'] or '').split('</think>')[-1] | trim }}
{%- elif message['role'] == 'user' %}
{{- '<|user|>\\n' + message['content'] }}
{{- '/nothink' if enable_thinking is defined and not enable_thinking }}
{%- else %}
{{- '<|' + message['role'] + '|>\\n' + message['content'] }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{{- '\\n<think></think>' if enable_thinking is defined and not enable_thinking }}
{%- endif %}"""

_ARGUMENT = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_NAME = re.compile(r"\s*([^\s<]+)\s*(.*)", re.DOTALL)

GLM_CALLS = CallMarkup(
    before=re.compile(r"\s*(?P<name>[^\s<]+)\s*(?=<arg_key>)"),
    arguments=partial(
        TagArguments,
        TagSyntax(
            before=re.compile(r"\s*<arg_key>(?P<key>[^<]*)</arg_key>\s*<arg_value>"),
            end="</arg_value>",
            after=None,
        ),
    ),
    ends_with_section=True,
)
GLM_STOPS = ("<|user|>", "<|observation|>", "<|endoftext|>")
GLM_MARKUP = ("<|system|>", "<|assistant|>", "<tool_response>", "</tool_response>", "[gMASK]", "<sop>")


class Glm(ChatFormat):
    """Calls of tools in tags, as all GLM since 4.5 write them."""

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """One call: the name, and keys and values in turn; values that are no strings are JSON."""
        call = _NAME.fullmatch(section)
        if call is None:
            raise ValueError("a tool call needs a name, then pairs of <arg_key> and <arg_value>")
        pairs = [(found[1].strip(), found[2]) for found in matches_in_turn(_ARGUMENT, call[2])]
        return (tool_call_from_texts(call[1], pairs, schemas),)


FORMAT = Glm(
    name="glm",
    signs=("[gMASK]", "<|assistant|>"),
    vocabulary=("[gMASK]", "<|assistant|>", "<|observation|>"),
    thought=("\n<think>", "</think>\n"),
    tool_sections=(("<tool_call>", "</tool_call>"),),
    inner_markup=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    turn_markup=GLM_MARKUP,
    stop_texts=GLM_STOPS,
    call_markup=GLM_CALLS,
    calls=CallSyntax(
        call=("<tool_call>{name}\n", "</tool_call>"),
        between="\n",
        argument=("<arg_key>{key}</arg_key>\n<arg_value>", "</arg_value>\n"),
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
