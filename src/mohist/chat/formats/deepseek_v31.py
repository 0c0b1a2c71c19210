"""DeepSeek V3.1: one model with and without thinking. The prompt opens thinking, or closes it at once.

Calls of tools belong to the mode without thinking.
"""

from __future__ import annotations

from mohist.chat.calls import CallSyntax
from mohist.chat.format import EARLY_STOP
from mohist.chat.formats.deepseek import (
    DEEPSEEK_CALL_MARKUP,
    DEEPSEEK_CALLS,
    DEEPSEEK_TURN_MARKUP,
    DeepSeek,
)

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages if message['role'] == 'system' %}
{{- message['content'] }}
{%- endfor %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- '<｜User｜>' + message['content'] }}
{%- elif message['role'] == 'assistant' %}
{{- '<｜Assistant｜></think>' + (message['content'] or '').split('</think>')[-1] + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<｜Assistant｜>' + ('<think>' if thinking is defined and thinking else '</think>') }}
{%- endif %}"""

FORMAT = DeepSeek(
    name="deepseek_v31",
    signs=("<｜Assistant｜>", "thinking is defined"),
    thought=("<think>", "</think>"),
    tool_sections=(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),),
    inner_markup=DEEPSEEK_CALL_MARKUP,
    turn_markup=DEEPSEEK_TURN_MARKUP,
    stop_texts=("<｜end▁of▁sentence｜>",),
    call_markup=DEEPSEEK_CALLS,
    calls=CallSyntax(
        opening="<｜tool▁calls▁begin｜>",
        call=("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        closing="<｜tool▁calls▁end｜>",
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
