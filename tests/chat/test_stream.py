"""Answers as they stream: however they are cut, the same comes out, and nothing is shown too early."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.chat.chat import Chat
from mohist.chat.delta import Delta, calls_in
from mohist.chat.format import ChatFormat, all_formats
from mohist.chat.formats.chatml import FORMAT as CHATML
from mohist.chat.formats.deepseek import FORMAT as DEEPSEEK
from mohist.chat.stream import StreamParser, splitter
from mohist.chat.tokenizer import Tokenizer
from mohist.types import ToolCall

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
R1_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>"
PIECES = [
    *("<think>", "</think>", "<", "think", ">", "</", "\n", "\n\n", " ", "a", "墨", "STOP", "ST", "{", "}"),
    *("<tool_call>", "</tool_call>", CALL, '{"name": "f", "arguments": {}}'),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        f"<｜tool▁calls▁begin｜>{R1_CALL}<｜tool▁calls▁end｜>",
    ),
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def joined(deltas: Iterable[Delta]) -> list[tuple[str, str]]:
    """Neighbours of one kind put together; each tool call by itself."""
    made: list[tuple[str, str]] = []
    for delta in deltas:
        if made and made[-1][0] == delta.kind and delta.begins is None:
            made[-1] = (delta.kind, made[-1][1] + delta.text)
        else:
            made.append((delta.kind, delta.text))
    return made


def split(
    pieces: Iterable[str],
    chat_format: ChatFormat = CHATML,
    *,
    thinking: bool = False,
    stop: Iterable[str] = (),
) -> list[tuple[str, str]]:
    cut = splitter(chat_format, thinking=thinking, stop=stop)
    deltas = [delta for piece in pieces for delta in cut.feed(piece)]
    return joined([*deltas, *cut.finish()])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("hello", [("content", "hello")]),
        ("  hello \n\n", [("content", "  hello \n\n")]),
        ("\n\n", [("content", "\n\n")]),
        ("<think>\nhm\n</think>\n\nhello", [("reasoning", "hm"), ("content", "hello")]),
        ("\n<think>hm</think>hello\n", [("reasoning", "hm"), ("content", "hello\n")]),
        ("<think>\n\n</think>\n\nhello", [("content", "hello")]),
        ("<think>hm, no end", [("reasoning", "hm, no end")]),
        ("<think>hm\n\n", [("reasoning", "hm")]),
        ("<thi", [("content", "<thi")]),
        ("say <think>x</think>", [("content", "say <think>x</think>")]),
        ("hello</think>", [("content", "hello</think>")]),
        (f"look:\n{CALL}", [("content", "look:"), ("tool_call", '{"a": 1}')]),
        (f"{CALL}\n{CALL}\n", [("tool_call", '{"a": 1}')] * 2),
        (f"{CALL}\n\nbye", [("tool_call", '{"a": 1}'), ("content", "bye")]),
        (CALL.removesuffix("\n</tool_call>"), [("tool_call", '{"a": 1}')]),
        (f"<think>hm\n{CALL}", [("reasoning", "hm"), ("tool_call", '{"a": 1}')]),
        ("a\n<tool_call>b</tool_call>\nc", [("content", "a\n<tool_call>b</tool_call>\nc")]),
        ("a <tool_call>b", [("content", "a <tool_call>b")]),
        ("<tool_call>{}</tool_call>", [("content", "<tool_call>{}</tool_call>")]),
        ("<tool_call>" + "[" * 100_000, [("content", "<tool_call>" + "[" * 100_000)]),
        (
            f"<think>use <tool_call>?\n</think>\n{CALL}",
            [("reasoning", "use <tool_call>?"), ("tool_call", '{"a": 1}')],
        ),
        (
            f"<tool_call>oops{CALL}",
            [("content", f"<tool_call>oops{CALL}"[: len("<tool_call>oops")]), ("tool_call", '{"a": 1}')],
        ),
    ],
)
def test_splitting(text: str, expected: list[tuple[str, str]]) -> None:
    assert split([text]) == expected
    assert split(text) == expected


def test_the_prompt_may_have_opened_thinking() -> None:
    assert split(["\nhm</think>\n\nhello"], thinking=True) == [("reasoning", "hm"), ("content", "hello")]
    assert split(["hm, no end"], thinking=True) == [("reasoning", "hm, no end")]


def test_stop_strings_end_the_answer() -> None:
    assert split(["one\nSTOP two"], stop=["STOP"]) == [("content", "one\n")]
    assert split("one STOP two", stop=["", "STOP"]) == [("content", "one ")]
    text = "<think>STOP</think>one STOP two</think>"
    assert split(text, stop=["STOP"]) == [("reasoning", "STOP"), ("content", "one ")]
    assert split(["ab"], stop=["b", "abc", "ab"]) == []


def test_deepseek_sections_hold_several_calls() -> None:
    second = R1_CALL.replace("sep｜>f", "sep｜>g")
    text = f"ok\n<｜tool▁calls▁begin｜>{R1_CALL}\n{second}<｜tool▁calls▁end｜>"
    cut = splitter(DEEPSEEK)
    deltas = [*cut.feed(text), *cut.finish()]
    assert deltas[0] == Delta("content", "ok")
    assert calls_in(deltas) == (ToolCall(name="f", arguments="{}"), ToolCall(name="g", arguments="{}"))


@settings(max_examples=300)
@given(
    text=TEXTS,
    data=st.data(),
    thinking=st.booleans(),
    chat_format=st.sampled_from(list(all_formats().values())),
)
def test_however_text_is_cut(text: str, data: st.DataObject, thinking: bool, chat_format: ChatFormat) -> None:
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=len(text)).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    for stop in ([], ["STOP"]):
        whole = split([text], chat_format, thinking=thinking, stop=stop)
        assert split(pieces, chat_format, thinking=thinking, stop=stop) == whole
        assert split(text, chat_format, thinking=thinking, stop=stop) == whole


@given(text=st.text("ab\n", max_size=12), stop=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4))
def test_stop_strings_may_overlap(text: str, stop: list[str]) -> None:
    whole = split([text], stop=stop)
    assert split(text, stop=stop) == whole
    first = min((text.find(end) for end in stop if end in text), default=len(text))
    assert "".join(part for _, part in whole) == text[:first]


@given(text=st.text(st.sampled_from("abc<>/think\n 墨")))
def test_no_letter_is_lost(text: str) -> None:
    """But for the tags themselves and the newlines around them."""
    given_out = "".join(part for _, part in split([text]))
    for tag in ("<think>", "</think>"):
        text, given_out = text.replace(tag, ""), given_out.replace(tag, "")
    assert text.replace("\n", "").lstrip() == given_out.replace("\n", "").lstrip()


def test_text_comes_as_soon_as_it_is_certain() -> None:
    cut = splitter(CHATML, thinking=True)
    assert cut.feed("I thi") == [Delta("reasoning", "I thi")]
    assert cut.feed("nk </") == [Delta("reasoning", "nk ")]
    assert cut.feed("b></thin") == [Delta("reasoning", "</b>")]
    assert cut.feed("k>\n") == []
    assert cut.feed("\nhi") == [Delta("content", "hi")]
    assert cut.feed("\n") == []
    assert cut.feed("x") == [Delta("content", "\nx")]


# Tokens


def parser_for(tokenizer: Tokenizer, chat_format: ChatFormat, *, thinking: bool = False) -> StreamParser:
    return StreamParser(tokenizer.reserving(chat_format.markup), chat_format, thinking=thinking)


def stream(parser: StreamParser, tokens: Iterable[int]) -> list[tuple[str, str]]:
    deltas = [delta for token in tokens for delta in parser.push(token)]
    return joined([*deltas, *parser.finish()])


def test_characters_are_never_cut(chatml: Tokenizer) -> None:
    parser = parser_for(chatml, CHATML)
    shown = [parser.push(token) for token in chatml.encode("墨a")]
    assert shown == [[], [], [Delta("content", "墨")], [Delta("content", "a")]]


def test_invalid_bytes_are_replaced_once_that_is_certain(chatml: Tokenizer) -> None:
    parser = parser_for(chatml, CHATML)
    first, second, _ = chatml.encode("墨")
    letter = chatml.encode("a")[0]
    assert parser.push(first) == []
    assert parser.push(second) == []
    assert parser.push(letter) == [Delta("content", "\ufffda")]
    assert parser.push(first) == []
    assert parser.finish() == [Delta("content", "\ufffd")]
    assert parser.message().content == "\ufffda\ufffd"


@settings(max_examples=300)
@given(text=TEXTS, thinking=st.booleans(), name=st.sampled_from(["chatml", "deepseek"]))
def test_however_tokens_are_cut(
    chatml: Tokenizer, deepseek: Tokenizer, text: str, thinking: bool, name: str
) -> None:
    """Tags as single tokens, tags spelled out, words or single bytes: the same text is the same answer."""
    tokenizer, chat_format = (chatml, CHATML) if name == "chatml" else (deepseek, DEEPSEEK)
    single = {tokenizer.token_bytes(token): token for token in range(256)}
    ways = [
        tokenizer.encode(text),
        tokenizer.reserving(chat_format.markup).encode(text, special=False),
        [single[bytes((byte,))] for byte in text.encode()],
    ]
    results = [stream(parser_for(tokenizer, chat_format, thinking=thinking), way) for way in ways]
    assert results == [split([text], chat_format, thinking=thinking)] * 3


def test_stop_tokens_and_other_markup_are_not_shown(qwen3: Chat) -> None:
    tokens = qwen3.tokenizer.encode("he<|im_start|>l<|fim_prefix|>lo<|im_end|>never")
    parser = qwen3.stream()
    deltas = [delta for token in tokens for delta in parser.push(token)]
    assert joined(deltas) == [("content", "hello")]
    assert parser.stopped
    assert parser.finish() == []


@given(data=st.data())
def test_no_answer_breaks_the_parser(chat: Chat, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(st.integers(0, chat.tokenizer.vocab_size + 3), max_size=60))
    prompt = data.draw(st.sampled_from([(), tuple(chat.render([{"role": "user", "content": "x"}]))]))
    parser = chat.stream(prompt, stop=["he"])
    deltas = [delta for token in tokens for delta in parser.push(token)] + parser.finish()
    message = chat.parse(tokens, prompt, stop=["he"])
    assert message == parser.message()
    assert message.content == "".join(delta.text for delta in deltas if delta.kind == "content")
