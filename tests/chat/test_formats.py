"""Chat formats: each module keeps the contract, finds its models, and reads their tool calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mohist.chat.calls import tool_call_from_json
from mohist.chat.chat import Chat
from mohist.chat.format import ChatFormat, all_formats, find_format
from mohist.chat.formats.chatml import FORMAT as CHATML
from mohist.chat.formats.deepseek import FORMAT as DEEPSEEK
from mohist.chat.template import Template
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError
from mohist.types import Message, ToolCall

Build = Callable[..., Tokenizer]

CONVERSATION = [
    Message(role="system", content="Be brief."),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello", reasoning="greet back"),
    Message(role="user", content="Bye"),
]


def test_formats_are_found_by_name() -> None:
    assert {"chatml", "deepseek", "plain"} <= set(all_formats())


@pytest.mark.parametrize("name", all_formats())
def test_contract(name: str, build: Build) -> None:
    """The name is the module's, the default template renders, and what structures answers is markup."""
    chat_format = all_formats()[name]
    assert chat_format.name == name
    assert chat_format.answer_markup <= chat_format.markup
    special = dict.fromkeys(chat_format.markup | {"<s>", "</s>"}, True)
    tokenizer = build(special, names={"bos_token": "<s>", "eos_token": "</s>"})
    chat = Chat(tokenizer, format_name=name)
    prompt = chat.render(CONVERSATION)
    text = chat.tokenizer.decode(prompt)
    assert [text.count(word) for word in ("Be brief.", "Hi", "Hello", "Bye")] == [1, 1, 1, 1]
    history = chat.render(CONVERSATION, add_generation_prompt=False)
    assert history == prompt[: len(history)]
    with pytest.raises(ValueError, match=r"."):
        chat_format.parse_tools("non sense", {})


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("<|im_start|>", "chatml"),
        ("<｜User｜><｜Assistant｜>", "deepseek"),
        ("<|im_start|><function=", "qwen_coder"),
        ("<|start_header_id|>", "llama3"),
        ("{{ messages }}", "plain"),
    ],
)
def test_found_by_the_template(chatml: Tokenizer, template: str, name: str) -> None:
    assert find_format(chatml, template).name == name


def test_found_by_the_vocabulary(build: Build, chatml: Tokenizer, deepseek: Tokenizer) -> None:
    assert find_format(chatml, None).name == "chatml"
    assert find_format(deepseek, None).name == "deepseek"
    assert find_format(build({"<s>": True}), None).name == "plain"


def test_found_by_name(chatml: Tokenizer) -> None:
    assert find_format(chatml, None, "plain").name == "plain"
    with pytest.raises(ChatError, match=r"chat format 'alpaca' is unknown; known are chatml, deepseek, "):
        find_format(chatml, None, "alpaca")


@pytest.mark.parametrize(
    ("chat_format", "section", "calls"),
    [
        (CHATML, '\n{"name": "f", "arguments": {"a": "é", "b":[1,2]}}\n', [("f", '{"a": "é", "b":[1,2]}')]),
        (CHATML, '{"name":"f","arguments":{}}', [("f", "{}")]),
        (CHATML, '{"arguments": {"x": 1}, "name": "f"}', [("f", '{"x": 1}')]),
        (CHATML, '{"name": "f", "arguments": {"a": 1}, "id": {"b": 2}}', [("f", '{"a": 1}')]),
        (CHATML, '{"name": "f", "arguments": "{\\"a\\": 1}"}', [("f", '{"a": 1}')]),
        (CHATML, '{"name": "f"}', [("f", "{}")]),
        (
            DEEPSEEK,
            '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "```"}\n```<｜tool▁call▁end｜>\n'
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜>",
            [("f", '{"a": "```"}'), ("g", "{}")],
        ),
        (
            DEEPSEEK,
            '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a":1}<｜tool▁call▁end｜>'
            "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
            [("f", '{"a":1}'), ("g", "{}")],
        ),
        (DEEPSEEK, '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}', [("f", '{"a": 1}')]),
    ],
)
def test_tool_calls(chat_format: ChatFormat, section: str, calls: list[tuple[str, str]]) -> None:
    assert [(call.name, call.arguments) for call in chat_format.parse_tools(section, {})] == calls


@pytest.mark.parametrize(
    ("chat_format", "section"),
    [
        (CHATML, ""),
        (CHATML, "[]"),
        (CHATML, '{"name": "f", "arguments": [1]}'),
        (CHATML, '{"name": "", "arguments": {}}'),
        (CHATML, '{"name": 5, "arguments": {}}'),
        (CHATML, '{"name": "f", "arguments": "x"}'),
        (DEEPSEEK, ""),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁call▁end｜>"),
        (DEEPSEEK, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{<｜tool▁call▁end｜>"),
        (DEEPSEEK, "<｜tool▁call▁begin｜><｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
    ],
)
def test_what_is_no_tool_call(chat_format: ChatFormat, section: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        chat_format.parse_tools(section, {})


def test_arguments_are_text_or_an_object_as_the_template_reads_them() -> None:
    assert CHATML.arguments_as_text(Template("{% if call.arguments is string %}{% endif %}"))
    assert not CHATML.arguments_as_text(Template("{{ call.arguments | tojson }}"))
    assert DEEPSEEK.arguments_as_text(Template(""))


def test_tool_call_from_json() -> None:
    assert tool_call_from_json("f", {"é": 1}) == ToolCall(name="f", arguments='{"é": 1}')
