"""GLM-4.7 and GLM-5: as GLM-4.6 without newlines, and with a prompt that opens or closes thinking."""

from __future__ import annotations

from mohist.chat.calls import CallSyntax
from mohist.chat.format import EARLY_STOP
from mohist.chat.formats.glm import GLM_CALLS, GLM_MARKUP, GLM_STOPS, Glm

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- '[gMASK]<sop>' }}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|assistant|></think>' + (message['content'] or '').split('</think>')[-1] | trim }}
{%- else %}
{{- '<|' + message['role'] + '|>' + message['content'] }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{{- '</think>' if enable_thinking is defined and not enable_thinking else '<think>' }}
{%- endif %}"""

FORMAT = Glm(
    name="glm_47",
    signs=("[gMASK]", "<|assistant|>", "{function-name}<arg_key>"),
    thought=("<think>", "</think>"),
    tool_sections=(("<tool_call>", "</tool_call>"),),
    inner_markup=("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    turn_markup=GLM_MARKUP,
    stop_texts=GLM_STOPS,
    call_markup=GLM_CALLS,
    calls=CallSyntax(
        call=("<tool_call>{name}", "</tool_call>"),
        argument=("<arg_key>{key}</arg_key><arg_value>", "</arg_value>"),
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
