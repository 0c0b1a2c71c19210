"""DeepSeek-Coder: instruction and response under headings, `<|EOT|>` ends the response.

The headings are ordinary text, so a message that holds one can pass for a turn; the model knows no other way.
"""

from __future__ import annotations

from mohist.chat.format import ChatFormat

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- '### Instruction:\\n' + message['content'] + '\\n' }}
{%- elif message['role'] == 'assistant' %}
{{- '### Response:\\n' + message['content'] + '\\n<|EOT|>\\n' }}
{%- else %}
{{- message['content'] }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '### Response:' }}
{%- endif %}"""

FORMAT = ChatFormat(
    name="deepseek_coder",
    signs=("### Instruction:", "### Response:"),
    stop_texts=("<|EOT|>",),
    default_template=_TEMPLATE,
)
