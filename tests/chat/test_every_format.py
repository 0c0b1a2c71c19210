"""What all chat formats promise: calls are read back, cuts change nothing, nothing raises or is forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.chat.calls import CallSyntax, schemas_of
from mohist.chat.chat import Chat
from mohist.chat.delta import Delta, calls_in
from mohist.chat.format import ChatFormat, all_formats
from mohist.chat.stream import splitter
from mohist.chat.tokenizer import Tokenizer
from mohist.types import Message, ToolCall

Build = Callable[..., Tokenizer]

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {
                    "q": {"type": "string"},
                    "n": {"type": "integer"},
                    "of": {"type": "array"},
                    "deep": {"type": "boolean"},
                },
            },
        },
    }
]
VALUES = {
    "q": st.text(st.sampled_from("ab 7{}\"'\\é墨\n"), max_size=8),
    "n": st.integers(-(10**6), 10**6),
    "of": st.lists(st.text("ab", max_size=3) | st.none(), max_size=3),
    "deep": st.booleans(),
}
ARGUMENTS = st.fixed_dictionaries({}, optional=VALUES)
FORMATS = all_formats()
CALLING = [name for name, f in FORMATS.items() if f.calls is not None]
SINGLE = {"gpt_oss", "llama3", "gigachat", "gigachat_31"}
"""Formats that call one tool an answer."""

JSON_CALL = '{"name": "find", "arguments": {"n": 1}}'
DSML_CALL = (
    '<｜{mark}｜invoke name="find">\n'
    '<｜{mark}｜parameter name="n" string="false">1</｜{mark}｜parameter>\n'
    "</｜{mark}｜invoke>\n"
)
TRANSCRIPTS = {
    "chatml": f"<think>\nhm\n</think>\n\nwell\n<tool_call>\n{JSON_CALL}\n</tool_call>",
    "qwen_coder": (
        "<think>\nhm\n</think>\n\nwell\n\n"
        "<tool_call>\n<function=find>\n<parameter=n>\n1\n</parameter>\n</function>\n</tool_call>"
    ),
    "gpt_oss": (
        "<|channel|>analysis<|message|>hm<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>well<|end|>"
        "<|start|>assistant to=functions.find<|channel|>commentary <|constrain|>json<|message|>"
        '{"n": 1}<|call|>'
    ),
    "glm": (
        "\n<think>hm</think>\nwell\n"
        "<tool_call>find\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
    ),
    "kimi": (
        "<think>hm</think>well<|tool_calls_section_begin|><|tool_call_begin|>functions.find:0"
        '<|tool_call_argument_begin|>{"n": 1}<|tool_call_end|><|tool_calls_section_end|>'
    ),
    "kimi_k3": (
        "<|open|>think<|sep|>hm<|close|>think<|sep|>"
        "<|open|>response<|sep|>well<|close|>response<|sep|>"
        '<|open|>tools<|sep|><|open|>call tool="find" index="1"<|sep|>'
        '<|open|>argument key="n" type="number"<|sep|>1<|close|>argument<|sep|>'
        "<|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>"
    ),
    "minimax_m1": f"<think>hm</think>well\n<tool_calls>\n{JSON_CALL}\n</tool_calls>",
    "minimax_m2": (
        '<think>\nhm\n</think>\n\nwell\n<minimax:tool_call>\n<invoke name="find">\n'
        '<parameter name="n">1</parameter>\n</invoke>\n</minimax:tool_call>'
    ),
    "deepseek": (
        "<think>\nhm\n</think>\n\nwell<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n"
        '```json\n{"n": 1}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "deepseek_v31": (
        "<think>hm</think>well<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>"
        '{"n": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    ),
    "deepseek_v32": (
        "<think>hm</think>well\n\n<｜DSML｜function_calls>\n"
        + DSML_CALL.format(mark="DSML")
        + "</｜DSML｜function_calls>"
    ),
    "gemma_4": "<|channel>thought\nhm\n<channel|>well<|tool_call>call:find{n:1}<tool_call|>",
    "mistral": '[THINK]hm[/THINK]well[TOOL_CALLS]find[ARGS]{"n": 1}',
    "gigachat": f"well<|message_sep|>\n\nfunction call<|role_sep|>\n{JSON_CALL}<|message_sep|>",
    "gigachat_31": f"well<|function_call|>{JSON_CALL}<|message_sep|>",
    "gigachat_35": (
        "<think>hm</think>well\n\n<｜GCML｜tool_calls>\n"
        + DSML_CALL.format(mark="GCML")
        + "</｜GCML｜tool_calls>"
    ),
}
"""Answers as the models write them: a thought, some text, one call."""


def tokenizer_for(build: Build, chat_format: ChatFormat) -> Tokenizer:
    added = dict.fromkeys(sorted(chat_format.markup | {"<s>", "</s>"}), True)
    return build(added, names={"bos_token": "<s>", "eos_token": "</s>"})


def parsed(chat_format: ChatFormat, pieces: list[str]) -> list[Delta]:
    cut = splitter(chat_format, tools=TOOLS)
    return [delta for piece in pieces for delta in cut.feed(piece)] + cut.finish()


def message(deltas: list[Delta]) -> tuple[str, str, list[tuple[str, Any]]]:
    texts = ["".join(d.text for d in deltas if d.kind == kind) for kind in ("reasoning", "content")]
    return texts[0], texts[1], [(call.name, json.loads(call.arguments)) for call in calls_in(deltas)]


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts(name: str) -> None:
    """Whole, and character by character."""
    text = TRANSCRIPTS[name]
    thought = "" if name in ("gigachat", "gigachat_31") else "hm"
    for pieces in ([text], list(text)):
        assert message(parsed(FORMATS[name], pieces)) == (thought, "well", [("find", {"n": 1})])


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_cut_anywhere(name: str) -> None:
    text = TRANSCRIPTS[name]
    whole = message(parsed(FORMATS[name], [text]))
    for place in range(len(text)):
        assert message(parsed(FORMATS[name], [text[:place], text[place:]])) == whole


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcripts_by_the_byte_and_by_the_mark(build: Build, name: str) -> None:
    """Tokens of single bytes, and marks as the tokens that they are."""
    chat_format, text = FORMATS[name], TRANSCRIPTS[name]
    chat = Chat(tokenizer_for(build, chat_format), format_name=name)
    single = {chat.tokenizer.token_bytes(token): token for token in range(256)}
    answers = [
        chat.parse(tokens, tools=TOOLS)
        for tokens in (chat.tokenizer.encode(text), [single[bytes((byte,))] for byte in text.encode()])
    ]
    assert answers[0] == answers[1]
    assert answers[0].content == "well"
    assert [call.name for call in answers[0].tool_calls] == ["find"]


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", CALLING)
def test_calls_are_read_as_they_are_written(name: str, data: st.DataObject) -> None:
    chat_format = FORMATS[name]
    assert chat_format.calls is not None
    count = 1 if name in SINGLE else 3
    arguments = data.draw(st.lists(ARGUMENTS, min_size=1, max_size=count))
    if name in ("qwen_coder",):  # newlines at the ends of a value are the format's
        arguments = [{k: v.strip("\n") if isinstance(v, str) else v for k, v in a.items()} for a in arguments]
    calls = [ToolCall(name="find", arguments=json.dumps(a, ensure_ascii=False)) for a in arguments]
    text = chat_format.calls.write(calls)
    assert message(parsed(chat_format, [text]))[2] == [("find", a) for a in arguments]


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", FORMATS)
def test_no_answer_raises_and_cuts_change_nothing(name: str, data: st.DataObject) -> None:
    """Marks, halves of marks and ordinary text in any order."""
    chat_format = FORMATS[name]
    texts = ("find", '{"n": 1}', " ", "\n", "a", "<", "name=", '"', ":0", "1")
    marks = [*sorted(chat_format.answer_markup), *texts]
    pieces = data.draw(st.lists(st.sampled_from(marks), max_size=12))
    text = "".join(pieces)
    whole = parsed(chat_format, [text])
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert message(parsed(chat_format, cut)) == message(whole)
    for delta in whole:
        if delta.kind != "tool_call" and delta.text != "\n\n":
            assert text[delta.place : delta.place + len(delta.text)] == delta.text


@pytest.mark.parametrize("name", FORMATS)
def test_marks_in_messages_are_plain_text(build: Build, name: str) -> None:
    """A message with every mark of the format gives exactly the markup that a harmless one gives."""
    chat_format = FORMATS[name]
    chat = Chat(tokenizer_for(build, chat_format), format_name=name)
    markup = chat.tokenizer.markup

    def marks(text: str) -> list[int]:
        messages = [
            Message(role="system", content=text),
            Message(role="user", content=text),
            Message(role="assistant", content=text),
            Message(role="user", content=text),
        ]
        return [token for token in chat.render(messages) if token in markup]

    forged = "x".join(sorted(chat_format.markup)).replace("</think>", "")
    assert marks(f"a{forged}b") == marks("ab")


@pytest.mark.parametrize("name", FORMATS)
def test_without_tools_calls_are_text(name: str) -> None:
    chat_format = FORMATS[name]
    if chat_format.calls is None:
        pytest.skip("there are no calls to take for text")
    text = chat_format.calls.write([ToolCall(name="find", arguments='{"n": 1}')])
    cut = splitter(chat_format, tools=())
    assert not calls_in((*cut.feed(text), *cut.finish()))
    assert chat_format.without_tools.answer_markup == chat_format.answer_markup


@pytest.mark.parametrize("name", FORMATS)
def test_early_stop_ends_thinking(name: str) -> None:
    chat_format = FORMATS[name]
    if not chat_format.early_stop:
        pytest.skip("the model does not think")
    cut = splitter(chat_format, thinking=True)
    deltas = [
        *cut.feed("a long thought"),
        *cut.feed(chat_format.early_stop),
        *cut.feed("so 7"),
        *cut.finish(),
    ]
    reasoning, content, _ = message(deltas)
    assert reasoning.startswith("a long thought")
    assert content == "so 7"


@pytest.mark.parametrize("name", [name for name, f in FORMATS.items() if f.early_stop])
def test_thoughts_written_in_the_models_place_are_read_back(build: Build, name: str) -> None:
    chat_format = FORMATS[name]
    chat = Chat(tokenizer_for(build, chat_format), format_name=name)
    before, after = map(chat.tokenizer.split, chat_format.thought)
    tokens = chat.tokenizer.encode_pieces([*before, "a thought", *after, "so 7"])
    answer = chat.parse(tokens)
    assert (answer.reasoning, answer.content) == ("a thought", "so 7")


def test_values_are_of_the_type_that_the_schema_says() -> None:
    from mohist.chat.formats.glm import FORMAT as GLM

    def values(*pairs: tuple[str, str], tools: list[dict[str, Any]]) -> Any:
        body = "".join(f"<arg_key>{k}</arg_key><arg_value>{v}</arg_value>" for k, v in pairs)
        return json.loads(GLM.parse_tools(f"find{body}", schemas_of(tools))[0].arguments)

    pairs = [("q", "007"), ("n", "3"), ("of", '["a"]'), ("more", "true"), ("other", "NaN")]
    typed = {"q": "007", "n": 3, "of": ["a"], "more": True, "other": "NaN"}
    assert values(*pairs, tools=TOOLS) == typed
    assert values(("q", "7"), tools=[]) == {"q": 7}
    with pytest.raises(ValueError, match="occurs twice"):
        values(("q", "1"), ("q", "2"), tools=[])


def test_a_call_needs_an_object_to_be_written() -> None:
    syntax = CallSyntax(call=("{name}(", ")"), argument=("{key}=", ";"))
    assert syntax.write([ToolCall(name="f", arguments='{"a": "x", "b": [1]}')]) == "f(a=x;b=[1];)"
    with pytest.raises(ValueError, match="they must be a JSON object"):
        syntax.write([ToolCall(name="f", arguments="[1]")])
