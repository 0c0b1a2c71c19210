"""Qwen3-Coder and Qwen3.5 and later: ChatML with calls of tools in tags, whose values are bare text.

<tool_call>
<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
</tool_call>
"""

from __future__ import annotations

import re
from functools import partial

from mohist.chat.arguments import TagArguments, TagSyntax
from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, matches_in_turn, tool_call_from_texts
from mohist.chat.format import EARLY_STOP, ChatFormat
from mohist.chat.formats.chatml import CHATML_TEMPLATE
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)

_MARKUP = CallMarkup(
    before=re.compile(r"\s*<function=(?P<name>[^>\n]+)>"),
    arguments=partial(
        TagArguments,
        TagSyntax(
            before=re.compile(r"\s*<parameter=(?P<key>[^>\n]+)>"),
            end="</parameter>",
            after=re.compile(r"\s*</function>"),
            newlines=True,
            python_names=True,
            key=str,
        ),
    ),
)


class QwenCoder(ChatFormat):
    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """One call. Booleans and null may be written as Python writes them."""
        function = _FUNCTION.fullmatch(section)
        if function is None:
            raise ValueError("a tool call needs <function=NAME> and </function>")
        parameters = [(found[1], found[2]) for found in matches_in_turn(_PARAMETER, function[2])]
        return (tool_call_from_texts(function[1].strip(), parameters, schemas, python_names=True),)


FORMAT = QwenCoder(
    name="qwen_coder",
    signs=("<|im_start|>", "<function="),
    tool_sections=(("<tool_call>", "</tool_call>"),),
    turn_markup=("<|im_start|>", "<tool_response>", "</tool_response>"),
    stop_texts=("<|im_end|>", "<|endoftext|>"),
    call_markup=_MARKUP,
    calls=CallSyntax(
        call=("<tool_call>\n<function={name}>\n", "</function>\n</tool_call>"),
        between="\n",
        argument=("<parameter={key}>\n", "\n</parameter>\n"),
    ),
    efforts={
        "minimal": "low",
        "low": "low",
        "medium": "medium",
        "high": "xhigh",
        "xhigh": "xhigh",
        "max": "xhigh",
    },
    early_stop=EARLY_STOP,
    default_template=CHATML_TEMPLATE,
)
