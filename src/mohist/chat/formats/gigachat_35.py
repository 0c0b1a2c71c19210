"""GigaChat 3.5: GigaChat's turns, thoughts between tags, and calls of tools as DeepSeek writes them."""

from __future__ import annotations

from mohist.chat.dsml import Dsml, dsml_markup, dsml_syntax
from mohist.chat.format import EARLY_STOP

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- if messages[0]['role'] != 'system' %}
{{- 'system<|role_sep|>\\n<|message_sep|>\\n\\n' }}
{%- endif %}
{%- for message in messages %}
{{- message['role'] + '<|role_sep|>\\n' }}
{{- message['content'].split('</think>')[-1] + '<|message_sep|>\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'assistant<|role_sep|>\\n' + ('<think>' if reasoning is defined and reasoning else '') }}
{%- endif %}"""


class Gcml(Dsml):
    mark = "｜GCML｜"


FORMAT = Gcml(
    name="gigachat_35",
    signs=("<|role_sep|>", "<|message_sep|>", "｜GCML｜"),
    thought=("<think>", "</think>"),
    tool_sections=(("<｜GCML｜tool_calls>", "</｜GCML｜tool_calls>"),),
    frame=("<|message_sep|>",),
    inner_markup=("｜GCML｜",),
    turn_markup=("<|role_sep|>",),
    stop_texts=("</s>",),
    call_markup=dsml_markup(Gcml.mark),
    calls=dsml_syntax("tool_calls", Gcml.mark),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
