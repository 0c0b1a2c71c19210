"""gpt-oss: OpenAI's harmony, answers in messages on channels (https://github.com/openai/harmony).

Thoughts go to `analysis`, the answer to `final`, calls of tools to `commentary` with a recipient. The system
message says how much to think: `Reasoning: low`, `medium` or `high`. Thoughts are dropped from the history
once a final answer exists, and kept between calls of tools until then.
"""

from __future__ import annotations

import re

from mohist.chat.calls import CallSyntax
from mohist.chat.format import Channels, ChatFormat

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\\n' }}
{{- 'Knowledge cutoff: 2024-06\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\\n\\n' }}
{{- 'Reasoning: ' + (reasoning_effort or 'medium') + '\\n\\n' }}
{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{{- '<|start|>developer<|message|># Instructions\\n\\n' + message['content'] + '\\n\\n<|end|>' }}
{%- elif message['role'] == 'user' %}
{{- '<|start|>user<|message|>' + message['content'] + '<|end|>' }}
{%- elif message['role'] == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + message['content'] }}
{{- '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start|>assistant' }}
{%- endif %}"""

_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=([^\s<]+)")
_PEOPLE = ("user", "assistant", "all")


class GptOss(ChatFormat):
    def parse_header(self, header: str) -> tuple[str, str]:
        """The recipient stands before or after the channel, with a namespace that is no part of the name."""
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        tool = "" if recipient is None or recipient[1] in _PEOPLE else recipient[1]
        return "" if channel is None else channel[1], tool.removeprefix("functions.")


FORMAT = GptOss(
    name="gpt_oss",
    signs=("<|start|>", "<|channel|>", "<|message|>"),
    vocabulary=("<|start|>", "<|channel|>", "<|message|>"),
    think=("<|channel|>analysis<|message|>", "<|end|>"),
    thought=("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    channels=Channels(
        starts=("<|start|>", "<|channel|>"),
        body="<|message|>",
        ends=("<|end|>", "<|return|>", "<|call|>"),
        turn="<|start|>assistant",
        final="<|channel|>final<|message|>",
        remark="<|channel|>commentary<|message|>",
        calls=(
            "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
            " to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>",
        ),
    ),
    inner_markup=("<|constrain|>",),
    turn_markup=("<|startoftext|>",),
    stop_texts=("<|return|>", "<|call|>", "<|endoftext|>"),
    calls=CallSyntax(
        call=(
            "<|start|>assistant<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
            "<|call|>",
        ),
    ),
    efforts={
        "minimal": "low",
        "low": "low",
        "medium": "medium",
        "high": "high",
        "xhigh": "high",
        "max": "high",
    },
    early_stop="<|end|><|start|>assistant<|channel|>final<|message|>",
    default_template=_TEMPLATE,
)
