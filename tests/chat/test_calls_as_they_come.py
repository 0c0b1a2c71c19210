"""Arguments of tool calls in pieces: early, and in sum what reading the whole section gives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.chat.delta import Delta, calls_in
from mohist.chat.format import ChatFormat
from mohist.chat.formats.chatml import FORMAT as CHATML
from mohist.chat.formats.glm import FORMAT as GLM
from mohist.chat.formats.gpt_oss import FORMAT as GPT_OSS
from mohist.chat.formats.mistral import FORMAT as MISTRAL
from mohist.chat.formats.qwen_coder import FORMAT as QWEN_CODER
from mohist.chat.json_scanner import JsonScanner
from mohist.chat.stream import splitter
from mohist.types import ToolCall
from tests.chat.test_every_format import ARGUMENTS, CALLING, FORMATS, SINGLE, TOOLS, TRANSCRIPTS

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON_TEXTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=4), JSON_TEXTS, max_size=4)


def deltas_of(chat_format: ChatFormat, pieces: Iterable[str]) -> list[Delta]:
    cut = splitter(chat_format, tools=TOOLS)
    return [delta for piece in pieces for delta in cut.feed(piece)] + cut.finish()


def text_of(deltas: Iterable[Delta]) -> str:
    return "".join(delta.text for delta in deltas if delta.kind == "content")


def as_a_whole(chat_format: ChatFormat) -> ChatFormat:
    """The slow twin: sections are read when they have ended."""
    return replace(chat_format, call_markup=None)


def written(chat_format: ChatFormat, arguments: list[dict[str, Any]]) -> str:
    """Calls of the one tool as a model writes them."""
    assert chat_format.calls is not None
    calls = [ToolCall(name="find", arguments=json.dumps(one, ensure_ascii=False)) for one in arguments]
    return chat_format.calls.write(calls)


@settings(max_examples=20)
@given(data=st.data())
@pytest.mark.parametrize("name", CALLING)
def test_pieces_add_up_to_what_the_whole_section_says(name: str, data: st.DataObject) -> None:
    chat_format = FORMATS[name]
    arguments = data.draw(st.lists(ARGUMENTS, min_size=1, max_size=1 if name in SINGLE else 3))
    text = ("" if name == "llama3" else "well") + written(chat_format, arguments)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    whole = deltas_of(as_a_whole(chat_format), [text])
    for pieces in ([text], list(text), cut):
        deltas = deltas_of(chat_format, pieces)
        assert calls_in(deltas) == calls_in(whole)
        assert text_of(deltas) == text_of(whole)
        assert sum(delta.complete for delta in deltas) == len(arguments)


@pytest.mark.parametrize("name", CALLING)
def test_arguments_come_before_the_call_is_over(name: str) -> None:
    """Where a string grows, so does what is given out: a character later, or as many as a tag may have."""
    chat_format = FORMATS[name]
    text = written(chat_format, [{"q": "x" * 100 + "Z" * 100}])
    cut = splitter(chat_format, tools=TOOLS)
    before = "".join(delta.text for piece in text[: text.index("Z") + 50] for delta in cut.feed(piece))
    assert before.startswith('{"q": "xxx')
    assert before.count("x") == 100
    assert 20 <= before.count("Z") <= 50


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_an_answer_that_ends_anywhere_is_the_beginning_of_the_whole(name: str) -> None:
    """Cut off before its arguments begin, a call is text; after that it is a call with what came of them."""
    chat_format, text = FORMATS[name], TRANSCRIPTS[name]
    (whole,) = calls_in(deltas_of(chat_format, [text]))
    shown: list[str] = []
    for end in range(len(text)):
        deltas = deltas_of(chat_format, text[:end])
        assert deltas == deltas_of(chat_format, text[:end])
        assert calls_in(deltas_of(chat_format, [text[:end]])) == calls_in(deltas)
        for call in calls_in(deltas):
            assert call.name == whole.name
            assert whole.arguments.startswith(call.arguments)
            # Half of what closes a call, or an answer, is text where the answer ends.
            assert text_of(deltas).startswith("well")
            assert not re.search(r'find|"n"|1', text_of(deltas))
            shown.append(call.arguments)
    assert shown == sorted(shown, key=len)
    assert shown


@settings(max_examples=25)
@given(data=st.data())
@pytest.mark.parametrize("name", CALLING)
def test_broken_calls_are_cut_alike_everywhere(name: str, data: st.DataObject) -> None:
    """Parts of calls in any order: cuts change nothing, nothing raises, and complete arguments are JSON."""
    chat_format = FORMATS[name]
    call = written(chat_format, [{"q": "a\nb", "n": 1}])
    marks = sorted(filter(None, chat_format.answer_markup), key=len)
    parts = [call, call[: len(call) // 2], call[len(call) // 2 :], call[: -len(call) // 4], *marks]
    parts += ["find", '{"name": "find", "arguments": {', '"q": ', "1", "}", ",", "]", "\n", '"', "\\", "<"]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    cut = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    whole = deltas_of(chat_format, [text])
    for pieces in (list(text), cut):
        deltas = deltas_of(chat_format, pieces)
        assert calls_in(deltas) == calls_in(whole)
        assert text_of(deltas) == text_of(whole)
    for arguments in complete(whole):
        assert isinstance(json.loads(arguments), dict)


def complete(deltas: Iterable[Delta]) -> Iterable[str]:
    """The arguments that came to their end."""
    text = ""
    for delta in deltas:
        if delta.kind == "tool_call":
            text = delta.text if delta.begins is not None else text + delta.text
            if delta.complete:
                yield text


@pytest.mark.parametrize(
    ("chat_format", "text", "calls", "content"),
    [
        # No tool of that name was offered: it is a call only if all of it reads like one.
        (
            CHATML,
            '<tool_call>{"name": "no", "arguments": {"a": 1',
            [],
            '<tool_call>{"name": "no", "arguments"',
        ),
        (CHATML, '<tool_call>{"name": "no", "arguments": {}}', ["{}"], ""),
        (CHATML, '<tool_call>{"name": "find"', [], '<tool_call>{"name": "find"'),
        (
            CHATML,
            '<tool_call>{"name": "find", "arguments": [',
            [],
            '<tool_call>{"name": "find", "arguments": [',
        ),
        # It was a call, and breaks: what does not fit is text.
        (
            CHATML,
            '<tool_call>{"name": "find", "arguments": {"a": oh}}</tool_call>',
            ['{"a": '],
            "oh}}</tool_",
        ),
        (CHATML, '<tool_call>{"name": "find", "arguments": {}} oh</tool_call>', ["{}"], "oh</tool_call>"),
        (CHATML, '<tool_call>{"name": "find", "arguments": {"q": "a', ['{"q": "a'], ""),
        (CHATML, '<tool_call>[{"name": "find", "arguments": {"n":1}}]</tool_call>', ['{"n":1}'], ""),
        (CHATML, '<think><tool_call>{"name": "find", "arguments": {"q": "</think>', ['{"q": "</think>'], ""),
        (MISTRAL, '[TOOL_CALLS][{"name": "find", "arguments": {"n": 1}}]', ['{"n": 1}'], ""),
        (
            QWEN_CODER,
            "<tool_call><function=find><parameter=n>\n1\n</parameter>\n<parameter=n>2</parameter></function>",
            ['{"n": 1'],
            "<parameter=n>2</parameter></function>",
        ),
        (QWEN_CODER, "<tool_call><function=find></function></tool_call>", ["{}"], ""),
        (GLM, "<tool_call>find<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>", ['{"n": 1}'], ""),
        (GLM, "<tool_call>find<arg_key>n</arg_key><arg_value>1</arg_value>", ['{"n": 1'], ""),
        (GPT_OSS, "<|channel|>commentary to=functions.find<|message|>{} oh<|call|>", ["{}"], "oh"),
        (GPT_OSS, '<|channel|>commentary to=functions.find<|message|>{"a" oh<|call|>', ['{"a" '], "oh"),
    ],
)
def test_what_is_held_back(chat_format: ChatFormat, text: str, calls: list[str], content: str) -> None:
    for pieces in ([text], list(text)):
        deltas = deltas_of(chat_format, pieces)
        assert [call.arguments for call in calls_in(deltas)] == calls
        assert text_of(deltas).strip().startswith(content.strip())
        assert bool(text_of(deltas)) == bool(content)


@pytest.mark.parametrize("name", CALLING)
def test_one_call_may_be_all(name: str) -> None:
    """Then the answer ends with its arguments."""
    chat_format = FORMATS[name]
    text = written(chat_format, [{"q": "a"}] * (1 if name in SINGLE else 2)) + " and more"
    for pieces in ([text], list(text)):
        cut = splitter(chat_format, tools=TOOLS, parallel=False)
        deltas = [delta for piece in pieces for delta in cut.feed(piece)]
        assert [call.arguments for call in calls_in(deltas)] == ['{"q": "a"}']
        assert deltas[-1].complete
        assert cut.done
        assert cut.finish() == []


@given(value=OBJECTS, indent=st.sampled_from([None, 1]), after=st.sampled_from(["", "}", " x"]))
def test_an_object_is_followed_to_its_end(value: dict[str, Any], indent: int | None, after: str) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=bool(indent))
    at_once, bit_by_bit = JsonScanner(), JsonScanner()
    assert at_once.feed(text + after) == len(text)
    assert at_once.complete
    assert [bit_by_bit.feed(letter) for letter in text] == [1] * len(text)
    assert bit_by_bit.complete


@given(text=st.text(st.sampled_from('{}[]:,"\\ue1-+.0aftrulsn\n '), max_size=12).map("{{{}".format))
def test_the_scanner_agrees_with_pythons_reader(text: str) -> None:
    scanner = JsonScanner()
    used = scanner.feed(text)
    try:
        _, end = json.JSONDecoder(parse_constant=lambda name: json.loads("!")).raw_decode(text)
    except ValueError:
        assert not scanner.complete
    else:
        assert (scanner.complete, used) == (True, end)


def test_what_readers_of_json_may_refuse_is_refused() -> None:
    for text in ('{"a": ' + "[" * 300, '{"a": ' + "1" * 300, '{"a": NaN', '{"a": "\n'):
        scanner = JsonScanner()
        scanner.feed(text)
        assert scanner.broken
