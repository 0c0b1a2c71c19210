"""How much to think: each level of the API in the model's own words."""

from __future__ import annotations

from typing import get_args

import pytest

from mohist.chat.chat import Chat
from mohist.chat.format import Effort, all_formats
from mohist.serve.ask import Ask
from mohist.serve.prompt import effort_variables, ignored_fields
from mohist.types import Message
from tests.serve.tiny import tiny_chat

LEVELS = {
    "gpt_oss": ["low", "low", "medium", "high", "high", "high"],
    "deepseek_v4": ["low", "low", "high", "high", "high", "max"],
    "qwen_coder": ["low", "low", "medium", "xhigh", "xhigh", "xhigh"],
    "kimi_k3": ["low", "low", "high", "high", "max", "max"],
}
TEMPLATE = "{{ messages[0].content }} {{ reasoning_effort }} {{ thinking_effort }}"


def ask(effort: Effort | None) -> Ask:
    return Ask(model="m", messages=(Message(role="user", content="hi"),), effort=effort)


def test_formats_with_levels() -> None:
    assert {name for name, one in all_formats().items() if one.efforts} == set(LEVELS)


@pytest.mark.parametrize("name", LEVELS)
def test_every_level_has_its_word(name: str) -> None:
    chat = Chat(tiny_chat().tokenizer, template=TEMPLATE, format_name=name)
    for effort, level in zip(get_args(Effort), LEVELS[name], strict=True):
        assert effort_variables(chat, ask(effort)) == {chat.format.effort_variable: level}
        assert ignored_fields(chat, ask(effort)) == ()
        rendered = chat.rendered(ask(effort).messages, variables=effort_variables(chat, ask(effort)))
        assert rendered.text.split() == ["hi", level]


def test_levels_without_effect_are_told() -> None:
    """A format without levels, and a template that does not ask for one."""
    for chat in (tiny_chat(), Chat(tiny_chat().tokenizer, template="{{ messages }}", format_name="gpt_oss")):
        assert effort_variables(chat, ask("high")) == {}
        assert ignored_fields(chat, ask("high")) == ("effort",)
        assert ignored_fields(chat, ask(None)) == ()
