"""Gemma 2 and 3: `<start_of_turn>ROLE` begins a turn, `<end_of_turn>` ends it.

There is no system turn: what the system says comes first in the user's first turn. How tools are called is
whatever the prompt asks for, so calls are text.
"""

from __future__ import annotations

from mohist.chat.format import ChatFormat

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- set first = namespace(text='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set first.text = first.text + message['content'] + '\\n\\n' %}
{%- else %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- first.text + (message['content'] | trim) + '<end_of_turn>\\n' }}
{%- set first.text = '' %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}"""

FORMAT = ChatFormat(
    name="gemma",
    signs=("<start_of_turn>",),
    vocabulary=("<start_of_turn>", "<end_of_turn>"),
    turn_markup=("<bos>", "<start_of_turn>", "<start_of_image>"),
    stop_texts=("<end_of_turn>", "<eos>"),
    default_template=_TEMPLATE,
)
