"""GigaChat 3.1: GigaChat's turns, with calls of tools inside the answer's own, after a mark."""

from __future__ import annotations

from mohist.chat.call_reader import JSON_CALL
from mohist.chat.calls import CallSyntax
from mohist.chat.formats.gigachat import GIGACHAT_TEMPLATE, GigaChat

__all__ = ["FORMAT"]

FORMAT = GigaChat(
    name="gigachat_31",
    signs=("<|role_sep|>", "<|message_sep|>", "<|function_call|>"),
    tool_sections=(("<|function_call|>", "<|message_sep|>"),),
    frame=("<|message_sep|>",),
    inner_markup=("<|role_sep|>",),
    stop_texts=("</s>",),
    call_markup=JSON_CALL,
    calls=CallSyntax(call=('<|function_call|>{"name": "{name}", "arguments": ', "}<|message_sep|>")),
    default_template=GIGACHAT_TEMPLATE,
)
