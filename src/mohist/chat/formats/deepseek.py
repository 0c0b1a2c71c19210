"""DeepSeek V3, R1, and the models distilled from R1. `<｜User｜>` and `<｜Assistant｜>` begin turns.

R1's prompts open thinking, and its history keeps only what follows `</think>`.
"""

from __future__ import annotations

import re

from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, tool_call_from_json
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.chat.template import Template
from mohist.types import ToolCall

__all__ = ["DEEPSEEK_CALLS", "DEEPSEEK_CALL_MARKUP", "DEEPSEEK_TURN_MARKUP", "FORMAT", "DeepSeek"]

_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages if message['role'] == 'system' %}
{{- message['content'] }}
{%- endfor %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{{- '<｜User｜>' + message['content'] }}
{%- elif message['role'] == 'assistant' %}
{{- '<｜Assistant｜>' + (message['content'] or '').split('</think>')[-1] + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<｜Assistant｜><think>\\n' }}
{%- endif %}"""

_CALL = re.compile(r"<｜tool▁call▁begin｜>(.*?)(?:<｜tool▁call▁end｜>|\Z)", re.DOTALL)
_FENCED = re.compile(r"\w+<｜tool▁sep｜>(?P<name>[^\n]+)\n```json\n(?P<arguments>.*)```\s*", re.DOTALL)
"""R1 and V3: the kind of tool, its name, and the arguments in a Markdown fence."""
_BARE = re.compile(r"(?P<name>[^\n]+?)<｜tool▁sep｜>(?P<arguments>.*)", re.DOTALL)
"""V3.1: name and arguments."""
DEEPSEEK_CALLS = CallMarkup(
    before=re.compile(
        r"\s*<｜tool▁call▁begin｜>(?:\w+<｜tool▁sep｜>(?=[^\n<{]+\n```json\n))?"
        r"(?P<name>[^\n<{]+)(?:<｜tool▁sep｜>|\n```json\n)\s*(?=\{)"
    ),
    after=re.compile(r"(?:\s*```)?\s*<｜tool▁call▁end｜>"),
)
_TO_JSON = re.compile(r"""arguments['"\]]*\s*\|\s*tojson""")

DEEPSEEK_CALL_MARKUP = ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>")
DEEPSEEK_TURN_MARKUP = (
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)


class DeepSeek(ChatFormat):
    """Calls of tools between marks, as DeepSeek wrote them up to V3.1."""

    def arguments_as_text(self, template: Template) -> bool:
        """DeepSeek's own templates concatenate arguments to text; rewritten ones turn them into JSON."""
        return _TO_JSON.search(template.source) is None

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of a section, in either generation's way of writing them."""
        bodies = _CALL.findall(section)
        if not bodies:
            raise ValueError("a section of tool calls must hold at least one")
        return tuple(map(_call, bodies))


def _call(body: str) -> ToolCall:
    written = _FENCED.fullmatch(body) or _BARE.fullmatch(body)
    if written is None:
        raise ValueError("a tool call needs a name and arguments")
    return tool_call_from_json(written["name"].strip(), written["arguments"].strip())


FORMAT = DeepSeek(
    name="deepseek",
    signs=("<｜Assistant｜>",),
    vocabulary=("<｜User｜>", "<｜Assistant｜>"),
    tool_sections=(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),),
    inner_markup=DEEPSEEK_CALL_MARKUP,
    turn_markup=DEEPSEEK_TURN_MARKUP,
    stop_texts=("<｜end▁of▁sentence｜>",),
    no_content=None,
    call_markup=DEEPSEEK_CALLS,
    calls=CallSyntax(
        opening="<｜tool▁calls▁begin｜>",
        call=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n", "\n```<｜tool▁call▁end｜>"),
        between="\n",
        closing="<｜tool▁calls▁end｜>",
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
