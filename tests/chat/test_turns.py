"""Turns of given conversations as the model should have generated them."""

from __future__ import annotations

from typing import Any

import pytest

from mohist.chat.chat import Chat
from mohist.chat.tokenizer import Tokenizer
from mohist.chat.turns import last_turn
from mohist.errors import ChatError

ASKED: list[Any] = [{"role": "user", "content": "hello?"}]


def said(content: str = "", **more: Any) -> list[Any]:
    return [*ASKED, {"role": "assistant", "content": content, **more}]


@pytest.mark.parametrize("content", ["hello", "a <|im_end|> b", "\nline", "  spaced  ", "</think> no", ""])
def test_parsing_gives_the_message_back(chat: Chat, content: str) -> None:
    """Whatever the template is: the answer's tokens spell the content, and end the turn."""
    turn = last_turn(chat, said(content))
    assert turn.prompt == chat.render(ASKED)
    assert turn.answer[-1] in chat.stop_tokens
    assert not set(turn.answer[:-1]) & set(chat.stop_tokens)
    message = chat.parse(turn.answer, turn.prompt)
    # some templates cut what they take for reasoning
    assert message.content.strip() in (content.strip(), content.split("</think>")[-1].strip())


@pytest.mark.parametrize("name", ["chatml", "qwen3", "r1"])
def test_reasoning_is_never_lost(name: str, request: pytest.FixtureRequest) -> None:
    """Where the template has no word for it, or leaves it out, the format's own marks are used."""
    chat = Chat(request.getfixturevalue("chatml")) if name == "chatml" else request.getfixturevalue(name)
    turn = last_turn(chat, said("7", reasoning_content="three and four"))
    message = chat.parse(turn.answer, turn.prompt)
    assert message.reasoning is not None
    assert message.reasoning.strip() == "three and four"
    assert message.content.strip() == "7"
    assert turn.answer[-1] in chat.stop_tokens


def test_tool_calls_are_the_templates(qwen3: Chat) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turn = last_turn(qwen3, said(tool_calls=[call]))
    (parsed,) = qwen3.parse(turn.answer, turn.prompt).tool_calls
    assert (parsed.name, parsed.arguments) == ("add", '{"a": 1}')


def test_without_a_template_the_turn_ends_with_the_end_of_text(build: Any) -> None:
    tokenizer: Tokenizer = build({"<eos>": True}, names={"eos_token": "<eos>"})
    chat = Chat(tokenizer, format_name="plain")
    turn = last_turn(chat, said("hello"))
    assert tokenizer.decode(turn.prompt).endswith("Assistant:")
    assert tokenizer.decode(turn.answer) == " hello<eos>"


def test_only_the_assistants_turns_are_learnt(qwen3: Chat) -> None:
    with pytest.raises(ChatError, match=r"messages\[0\]\.role = 'user': an assistant's turn is asked for"):
        last_turn(qwen3, ASKED)
