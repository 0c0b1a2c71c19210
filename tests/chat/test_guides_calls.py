"""Guides of calls where formats have rules of their own: Gemma's notation, Llama's bare JSON, GigaChat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mohist.chat.chat import Chat
from mohist.chat.delta import calls_in
from mohist.chat.formats.gemma_4 import FORMAT as GEMMA_4
from mohist.chat.guides.guides import Form, Guides, ToolForm
from mohist.chat.notation import Notation
from mohist.chat.stream import splitter
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError
from mohist.types import Message, ToolCall
from tests.chat.test_guides import CLOCK, WEATHER, Drawn, allowed_tokens, ask, calling_chat, closed, draw

pytest.importorskip("llguidance")

GEMMA = calling_chat("gemma_4")
GEMMA_GUIDES = Guides(GEMMA, GEMMA.tokenizer.vocab_size + 3)
LLAMA = calling_chat("llama3")
GIGACHAT = calling_chat("gigachat")
GIGACHAT_31 = calling_chat("gigachat_31")


def message(chat: Chat, form: Form, drawn: Drawn) -> Message:
    """The answer; however its text is cut, the same calls and content come out."""
    whole = chat.parse(drawn.tokens, ask(chat), tools=form.offered)
    hidden = [t for t, text in chat.tokenizer.markup.items() if text not in chat.format.answer_markup]
    text = chat.tokenizer.decode([token for token in drawn.tokens if token not in hidden])
    for place in range(len(text)):
        cut = splitter(chat.format, tools=form.offered)
        deltas = [*cut.feed(text[:place]), *cut.feed(text[place:]), *cut.finish()]
        assert calls_in(deltas) == whole.tool_calls
        assert "".join(delta.text for delta in deltas if delta.kind == "content") == whole.content
    return whole


def begun(chat: Chat, form: Form, text: str, seed: int = 0, most: int = 400) -> tuple[Drawn, Message]:
    """An answer that begins as `text` says where it may."""
    drawn = draw(chat, form, seed, wanted=chat.tokenizer.encode(text), most=most)
    return drawn, message(chat, form, drawn)


# ---- Gemma 4: a notation of its own

COUNT = st.integers(0, 2)
LEAVES: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": ["null", "boolean"], "description": "maybe"},
        {"type": "integer", "minimum": -7, "maximum": 120},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "integer", "multipleOf": 12, "minimum": 0, "maximum": 999},
        {"type": ["integer", "string"], "maxLength": 3, "minimum": 5, "maximum": 9},
        {"type": "string", "minLength": 1, "maxLength": 2},
        {"type": "string", "maxLength": 0},
        {"type": "string", "enum": ["", 'q"\n', 7, "é, b}"]},
        {"const": {"a": [1, {"b c": "x"}], "é": None, "B": -2.5}},
        {"enum": [1, "1", None, True, [[]], {}]},
        {"type": "object", "additionalProperties": False},
    ]
)
NAMES = st.sampled_from(["a", "B", "c d", "é", "{", "a_1", ""])


def holding(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, parts, max_size=3)
    return st.one_of(
        st.builds(
            lambda known, chosen: closed(known, [name for name in known if name in chosen]),
            properties,
            st.sets(NAMES),
        ),
        st.builds(
            lambda item, a, n: {"type": "array", "items": item, "minItems": a, "maxItems": a + n},
            parts,
            COUNT,
            COUNT,
        ),
        st.lists(parts, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
    )


SCHEMAS = st.recursive(LEAVES, holding, max_leaves=5)
SCHEMAS = SCHEMAS | SCHEMAS.map(lambda part: {"$ref": "#/$defs/x~1%20y", "$defs": {"x/ y": part}})


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_arguments_in_gemmas_notation_fit_their_schema(schema: dict[str, Any], seed: int) -> None:
    parameters = closed({"x": schema}, ["x"]) | {"$defs": schema.get("$defs", {})}
    form = Form(tools=(ToolForm(name="f", parameters=parameters),), calls="required", parallel=False)
    factory = GEMMA_GUIDES.factory(form, ask(GEMMA))
    assert factory is not None
    drawn = Drawn(GEMMA, factory(), seed, most=300)
    if drawn.ended:  # fractions may go on for long
        (call,) = message(GEMMA, form, drawn).tool_calls
        jsonschema.Draft202012Validator(parameters).validate(json.loads(call.arguments))


TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}, "n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("parameters", "text", "arguments"),
    [
        (TREE, "{kids:[{n:1},{kids:[],n:2}],n:-3}", '{"kids": [{"n": 1}, {"kids": [], "n": 2}], "n": -3}'),
        # Names and values in any other order do not fit.
        (TREE, "{n:1,", None),
        (TREE, "{m:", None),
        (TREE, "{n:1.5", None),
        # No white space comes before a number.
        ({"properties": {"x": {"type": "number", "maximum": 1}}}, "{x:0.5}", '{"x": 0.5}'),
        ({"properties": {"x": {"type": "number", "maximum": 1}}}, "{x: ", None),
        (TREE, "{n:<|", None),
        # Without properties, any key is one; each may come again, as in JSON.
        (
            {"additionalProperties": {"type": "integer"}},
            '{a:1,<|"|>b c<|"|>:2,a:3}',
            '{"a": 1, "b c": 2, "a": 3}',
        ),
        ({"additionalProperties": {"type": "integer"}}, "{a:x", None),
        ({"additionalProperties": {"type": "integer"}}, "{a:1,}", None),
        (
            {},
            '{a:{b:[null,true,-1.5e3,<|"|>}{<|"|>,{}]}}',
            '{"a": {"b": [null, true, -1.5e3, "}{", {}]}}',
        ),
        ({"properties": {"s": {"type": "string"}}}, '{s:<|"|>a", \n{}<|"|>}', '{"s": "a\\", \\n{}"}'),
        ({"properties": {"s": {"type": "string"}}}, "{}", "{}"),
    ],
)
def test_what_gemmas_notation_lets_through(
    parameters: Mapping[str, Any], text: str, arguments: str | None
) -> None:
    form = Form(tools=(ToolForm(name="f", parameters=parameters),), calls="required", parallel=False)
    wanted = f"<|tool_call>call:f{text}" + ("" if arguments is None else "<tool_call|>")
    drawn, whole = begun(GEMMA, form, wanted, most=len(wanted) + 1)
    if arguments is None:
        assert not GEMMA.tokenizer.decode(drawn.tokens).startswith(wanted)
    else:
        assert [call.arguments for call in whole.tool_calls] == [arguments]


def test_no_string_of_gemma_spells_its_own_end() -> None:
    """The reader goes by the text; only the token may end a string."""
    say = ToolForm(name="say", parameters=closed({"x": {"type": "string", "maxLength": 40}}, ["x"]))
    form = Form(tools=(say,), calls="required", parallel=False)
    begin = GEMMA.tokenizer.encode('<|tool_call>call:say{x:<|"|>')
    for spelled in ('<|"|>', "<tool_call|>", "<|tool_call>"):
        evil = GEMMA.tokenizer.encode(spelled, special=False)
        drawn = draw(GEMMA, form, wanted=[*begin, *evil])
        assert drawn.tokens[: len(begin) + len(evil) - 1] == [*begin, *evil[:-1]]
        assert drawn.tokens[len(begin) + len(evil) - 1] != evil[-1]
        (call,) = message(GEMMA, form, drawn).tool_calls
        assert json.loads(call.arguments)["x"].startswith(spelled[:-1])


def test_gemmas_tools_that_are_not_strict_take_any_object() -> None:
    loose = ToolForm(name="get_weather", parameters=WEATHER.parameters, strict=False)
    form = Form(tools=(loose,), calls="required", parallel=False)
    drawn, whole = begun(GEMMA, form, "<|tool_call>call:get_weather{where:{of:[1]}}<tool_call|>")
    assert drawn.ended
    assert [call.arguments for call in whole.tool_calls] == ['{"where": {"of": [1]}}']


def test_gemma_may_think_before_it_must_call() -> None:
    """The thought's opening is two tokens: the model chooses the first, the other follows."""
    chat = Chat(
        GEMMA.tokenizer,
        template="{{ messages[0].content }}{{ enable_thinking }}<|turn>model\n",
        format_name="gemma_4",
    )
    form = Form(tools=(CLOCK,), calls="required", parallel=False)
    channel = chat.tokenizer.encode("<|channel>")
    rest = chat.tokenizer.encode("thought\nhm\n<channel|><|tool_call>call:clock{}<tool_call|>")
    thinking = draw(chat, form, wanted=[*channel, *rest])
    assert thinking.tokens[:-1] == [*channel, *rest]
    assert message(chat, form, thinking) == Message(
        role="assistant", content="", reasoning="hm", tool_calls=(ToolCall(name="clock", arguments="{}"),)
    )
    assert thinking.masks[1 : 1 + len("thought")] == rest[: len("thought")]
    _, whole = begun(chat, form, "<|tool_call>call:clock{}<tool_call|>")
    assert (whole.reasoning, len(whole.tool_calls)) == (None, 1)
    few = Form(tools=(CLOCK,), calls="required", parallel=False, thinking_budget=2)
    _, whole = begun(chat, few, "<|channel>thought\nabcdef")
    assert (whole.reasoning, len(whole.tool_calls)) == ("a", 1)


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ({"type": "string", "pattern": "x"}, "'pattern' is not supported beside 'type'"),
        ({"type": "array", "prefixItems": []}, "'prefixItems' is not supported"),
        ({"oneOf": [{"type": "null"}]}, "need a type, not None"),
        ({"minimum": 1}, "need a type, not None"),
        ({"anyOf": [True], "type": "null"}, "'type' is not supported beside 'anyOf'"),
        ({"$ref": "#", "minItems": 1}, "'minItems' is not supported beside '\\$ref'"),
        ({"enum": [1], "const": 1}, "'const' is not supported beside 'enum'"),
        ({"type": "string", "enum": [1]}, "none of its values is of its type"),
        ({"enum": ['a<|"|>']}, "holds markup"),
        ({"enum": [{"<tool_call|>": 1}]}, "holds markup"),
        ({"type": "object", "properties": {"<eos>": True}}, "holds markup"),
        ({"type": "object", "properties": {"x" * 600: True}}, "at most 512 characters"),
        ({"type": "object", "required": ["y"]}, "'y' is required, but is none of its properties"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "nothing fits"),
        ({"type": "string", "minLength": 1.5}, "whole numbers"),
        (False, "no value fits false"),
    ],
)
def test_what_gemmas_notation_cannot_be_kept_to(part: Any, error: str) -> None:
    tool = ToolForm(name="a", parameters={"properties": {"p": part}})
    with pytest.raises(RequestError, match=f"the schema of tool 'a'/properties/p.*: .*{error}"):
        draw(GEMMA, Form(tools=(tool,), calls="required"))


def test_gemmas_notation_needs_its_quote(chatml: Tokenizer) -> None:
    chat = Chat(chatml, format_name="gemma_4")
    with pytest.raises(RequestError, match=r"no token '<\|\"\|>' for the ends of strings"):
        draw(chat, Form(tools=(CLOCK,), calls="required"))


def test_what_gemmas_notation_cannot_write() -> None:
    assert GEMMA_4.calls is not None
    notation = GEMMA_4.calls.notation
    assert isinstance(notation, Notation)
    assert notation.write({"b": [1, "x"], "A c": {}}) == '{<|"|>A c<|"|>:{},b:[1,<|"|>x<|"|>]}'
    for value, error in (
        ({"a": '<|"|>'}, "ends a string"),
        ({'<|"|>': 1}, "ends a string"),
        ({"k" * 513: 1}, "at most 512"),
        ([float("nan")], "not JSON compliant"),
    ):
        with pytest.raises(ValueError, match=error):
            notation.write(value)


# ---- Llama 3: calls without any mark

STRICT = Form(tools=(WEATHER, CLOCK), calls="strict")
BERN = '{"name": "get_weather", "parameters": {"city": "Bern"}}'


@pytest.mark.parametrize("before", ["", " \n", "<|python_tag|>", "Well. <|python_tag|>", "<|python_tag|>\n"])
def test_a_strict_call_of_llama(before: str) -> None:
    drawn, whole = begun(LLAMA, STRICT, before + BERN)
    assert drawn.ended
    assert drawn.masks[0] is None, "free text costs nothing"
    assert whole.content == before.replace("<|python_tag|>", "").strip("\n ") + (" " if "W" in before else "")
    assert whole.tool_calls == (ToolCall(name="get_weather", arguments='{"city": "Bern"}'),)


@pytest.mark.parametrize("before", ["", "\t", "<|python_tag|>"])
@pytest.mark.parametrize(
    "evil",
    [
        '{"name": "get_weather", "parameters": {"city": "Ulm"}}',
        '{"name": "get_weather", "parameters": {}}',
        '{"name": "none", "parameters": {}}',
        '{"name": 5}',
        '{"name":"clock", "parameters": {"x": 1}}',
        '{"name"}',
        f"{BERN} and more",
    ],
)
def test_a_call_of_llama_that_does_not_fit_is_not_drawn(before: str, evil: str) -> None:
    drawn, whole = begun(LLAMA, STRICT, before + evil, most=300)
    assert not LLAMA.tokenizer.decode(drawn.tokens).startswith(before + evil)
    if drawn.ended:
        assert whole.tool_calls
        assert whole.content == ""
        for call in whole.tool_calls:
            tool = {"get_weather": WEATHER, "clock": CLOCK}[call.name]
            jsonschema.validate(json.loads(call.arguments), {"type": "object", **tool.parameters})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No need.",
        '{"nam',
        '{"nama": 1}',
        '{ "name": "x"}',
        'Say {"name": "x"}',
        '[{"name": "clock"}]',
        "\n\n",
    ],
)
def test_what_is_no_call_of_llama_stays_free(text: str) -> None:
    drawn, whole = begun(LLAMA, STRICT, text)
    assert drawn.ended
    assert LLAMA.tokenizer.decode(drawn.tokens[:-1]) == text
    assert (whole.content, whole.tool_calls) == (text, ())


def test_white_space_that_the_grammar_does_not_know_begins_no_call() -> None:
    """Python takes U+001C for white space, the grammar does not: then no call can follow it."""
    drawn, _ = begun(LLAMA, STRICT, "\x1c" + BERN, most=60)
    assert LLAMA.tokenizer.decode(drawn.tokens).startswith('\x1c{"name')
    assert not LLAMA.tokenizer.decode(drawn.tokens).startswith('\x1c{"name"')


def test_one_call_of_llama_ends_the_answer() -> None:
    for parallel, number in ((False, 1), (True, 2)):
        form = Form(tools=(WEATHER, CLOCK), calls="strict", parallel=parallel)
        drawn, whole = begun(LLAMA, form, BERN + BERN)
        assert drawn.ended
        assert len(whole.tool_calls) == number


def test_tokens_that_finish_a_bare_call_must_fit_it() -> None:
    """`":` and `":1` both finish `{"name"` and go on: the first as a call does, the other not."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({text: i for i, text in enumerate([*alphabet, '":', '":1'])}, [('"', ":"), ('":', "1")])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("<|eot_id|>", special=True)])
    chat = Chat(Tokenizer(backend, names={"eos_token": "<|eot_id|>"}), format_name="llama3")
    size = chat.tokenizer.vocab_size
    factory = Guides(chat, size).factory(STRICT, [0])
    assert factory is not None
    guide = factory()
    for letter in '{"name':
        guide.push(alphabet.index(letter))
    texts = [chat.tokenizer.token_bytes(token) for token in allowed_tokens(guide.allowed(), size + 3)]
    assert {b'"', b'":', b"x"} <= set(texts)
    assert b'":1' not in texts
    guide.push(size - 3)
    assert chat.tokenizer.token_bytes(size - 3) == b'":'
    assert [chat.tokenizer.token_bytes(t) for t in allowed_tokens(guide.allowed(), size + 3)] == [b" "]


@given(
    parts=st.lists(
        st.sampled_from(
            [
                '{"name"',
                '{"',
                "name",
                '"',
                ": ",
                '"clock"',
                '"parameters"',
                ", ",
                "{}",
                "}",
                "<|python_tag|>",
                " ",
            ]
        ),
        max_size=9,
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=80)
def test_whatever_llama_begins_every_call_fits(parts: Sequence[str], seed: int) -> None:
    form = Form(tools=(CLOCK,), calls="strict")
    drawn, whole = begun(LLAMA, form, "".join(parts), seed, most=120)
    if drawn.ended:
        assert all(call.name == "clock" and json.loads(call.arguments) == {} for call in whole.tool_calls)
        assert "<|python_tag|>" not in whole.content
        assert not whole.content.lstrip().startswith('{"name"')


# ---- GigaChat: calls in turns of their own

TURN = "<|message_sep|>\n\nfunction call<|role_sep|>\n"


@pytest.mark.parametrize(("chat", "mark"), [(GIGACHAT, TURN), (GIGACHAT_31, "<|function_call|>")])
@pytest.mark.parametrize("calls", ["strict", "required"])
def test_calls_of_gigachat(chat: Chat, mark: str, calls: Any) -> None:
    form = Form(tools=(WEATHER, CLOCK), calls=calls, parallel=False)
    text = mark + '{"name": "get_weather", "arguments": {"city": "'
    for seed in range(5):
        drawn, whole = begun(chat, form, text + 'Ulm"}}<|message_sep|>', seed)
        assert chat.tokenizer.decode(drawn.tokens).startswith(text)
        if drawn.ended:
            (call,) = whole.tool_calls
            jsonschema.validate(json.loads(call.arguments), WEATHER.parameters)
            assert whole.content == ""


def test_gigachat_answers_in_a_form_or_calls() -> None:
    form = Form(tools=(CLOCK,), schema=closed({"a": {"enum": [1, 22]}}, ["a"]))
    _, whole = begun(GIGACHAT, form, '{"a": 22}')
    assert (whole.content, whole.tool_calls) == ('{"a": 22}', ())
    _, whole = begun(GIGACHAT, form, TURN + '{"name": "clock"')
    assert (whole.content, len(whole.tool_calls)) == ("", 1)


def test_calls_whose_last_token_ends_the_answer() -> None:
    """Then the answer is complete without it; where it stands anywhere else, no call can be written."""
    form = Form(tools=(CLOCK,), calls="required")
    for chat, fits in ((GIGACHAT_31, True), (GIGACHAT, False)):
        stop = chat.tokenizer.token("<|message_sep|>")
        assert stop is not None
        guides = Guides(chat, chat.tokenizer.vocab_size + 3)
        if not fits:
            with pytest.raises(RequestError, match=r"'<\|message_sep\|>' ends the answers of this model"):
                guides.factory(form, ask(chat), stop_tokens=[stop])
            continue
        factory = guides.factory(form, ask(chat), stop_tokens=[stop])
        assert factory is not None
        guide = factory()
        for token in chat.tokenizer.encode('<|function_call|>{"name": "clock", "arguments": {}}'):
            assert token in allowed_tokens(guide.allowed(), chat.tokenizer.vocab_size + 3)
            guide.push(token)
        assert allowed_tokens(guide.allowed(), chat.tokenizer.vocab_size + 3) == [stop]
