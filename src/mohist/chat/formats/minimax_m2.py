"""MiniMax M2 and its successors to M2.7. `]~b]ROLE` begins a turn, `[e~[` ends it.

Thinking is interleaved with calls of tools: thoughts since the user's last question must be sent back, and
the template keeps them there.
"""

from __future__ import annotations

import re
from functools import partial

from mohist.chat.arguments import TagArguments, TagSyntax
from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_texts
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- ']~!b[' }}
{%- if messages[0]['role'] != 'system' %}
{{- ']~b]system\\nYou are a helpful assistant.[e~[\\n' }}
{%- endif %}
{%- for message in messages %}
{{- ']~b]' + ('ai' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- (message['content'] or '') + '[e~[\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- ']~b]ai\\n<think>\\n' }}
{%- endif %}"""

_INVOKE = re.compile(r'\s*<invoke name="?([^">]+)"?>(.*?)</invoke>\s*', re.DOTALL)
_PARAMETER = re.compile(r'\s*<parameter name="?([^">]+)"?>(.*?)</parameter>\s*', re.DOTALL)

_MARKUP = CallMarkup(
    before=re.compile(r'\s*<invoke name="?(?P<name>[^">]+)"?>'),
    arguments=partial(
        TagArguments,
        TagSyntax(
            before=re.compile(r'\s*<parameter name="?(?P<key>[^">]+)"?>'),
            end="</parameter>",
            after=re.compile(r"\s*</invoke>"),
            key=str,
        ),
    ),
)


class MiniMaxM2(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """All calls of a section; values that are no strings are JSON."""
        invokes = matches_in_turn(_INVOKE, section)
        if not invokes:
            raise ValueError("a section of tool calls must hold <invoke> elements")
        return tuple(_call(invoke[1], invoke[2], schemas) for invoke in invokes)


def _call(name: str, body: str, schemas: Schemas) -> ToolCall:
    parameters = matches_in_turn(_PARAMETER, body)
    return tool_call_from_texts(name, [(found[1], found[2]) for found in parameters], schemas)


FORMAT = MiniMaxM2(
    name="minimax_m2",
    signs=("]~b]", "minimax:tool_call"),
    vocabulary=("]~b]", "[e~["),
    tool_sections=(("<minimax:tool_call>", "</minimax:tool_call>"),),
    turn_markup=("]~!b[", "]~b]"),
    stop_texts=("[e~[",),
    call_markup=_MARKUP,
    calls=CallSyntax(
        opening="<minimax:tool_call>\n",
        call=('<invoke name="{name}">\n', "</invoke>\n"),
        closing="</minimax:tool_call>",
        argument=('<parameter name="{key}">', "</parameter>\n"),
    ),
    early_stop=EARLY_STOP,
    default_template=_TEMPLATE,
)
