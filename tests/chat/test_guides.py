"""Guides of answers: whatever is drawn under one has the form that was asked for, or the answer fails."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from time import perf_counter
from typing import Any

import jsonschema
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mohist.chat.chat import Chat
from mohist.chat.format import all_formats
from mohist.chat.guides.guides import Form, Guides, ToolForm
from mohist.chat.guides.schema import JSON_OBJECT, MAX_SCHEMA_BYTES, checked_schema
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError
from mohist.types import Guide, Message, ToolCall

pytest.importorskip("llguidance")

WEATHER = ToolForm(
    name="get_weather",
    parameters={
        "properties": {
            "city": {"type": "string", "enum": ["Bern", "Rom"]},
            "note": {"type": "string"},
            "days": {"type": "integer", "maximum": 9},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)
CLOCK = ToolForm(name="clock", parameters={"type": "object", "additionalProperties": False})
FORM = {
    "type": "object",
    "properties": {"a": {"enum": [1, 22]}},
    "required": ["a"],
    "additionalProperties": False,
}


class Drawn:
    """A random answer under a guide: what is `wanted`, then an end as soon as may be, or any token."""

    def __init__(
        self, chat: Chat, guide: Guide, seed: int, wanted: Sequence[int] = (), most: int = 400
    ) -> None:
        self.tokens: list[int] = []
        self.ended = False
        rng, size = random.Random(seed), chat.tokenizer.vocab_size + 3
        self.masks: list[bytes | int | None] = []
        for step in range(most):
            allowed = guide.allowed()
            self.masks.append(allowed)
            choices = allowed_tokens(allowed, size)
            assert choices, f"nothing is allowed after {chat.tokenizer.decode(self.tokens)!r}"
            token = rng.choice(choices)
            if step < len(wanted) and wanted[step] in choices:
                token = wanted[step]
            elif stops := [stop for stop in chat.stop_tokens if stop in choices and step >= len(wanted)]:
                token = stops[0]
            self.tokens.append(token)
            if token in chat.stop_tokens:
                self.ended = True
                break
            guide.push(token)


def allowed_tokens(allowed: bytes | int | None, size: int) -> list[int]:
    if allowed is None:
        return list(range(size - 3))
    if isinstance(allowed, int):
        return [allowed]
    found = [token for token in range(8 * len(allowed)) if allowed[token // 8] >> token % 8 & 1]
    assert not found or found[-1] < size - 3, "a token that is only padding"
    return found


def draw(chat: Chat, form: Form, seed: int = 0, prompt: Sequence[int] | None = None, **options: Any) -> Drawn:
    """The vocabulary is padded by three."""
    factory = Guides(chat, chat.tokenizer.vocab_size + 3).factory(
        form, ask(chat) if prompt is None else prompt
    )
    assert factory is not None
    return Drawn(chat, factory(), seed, **options)


def ask(chat: Chat, thinking: bool | None = None) -> list[int]:
    return chat.render([Message(role="user", content="?")], thinking=thinking)


def content(chat: Chat, drawn: Drawn, prompt: Sequence[int] | None = None) -> Message:
    return chat.parse(drawn.tokens, ask(chat) if prompt is None else prompt)


# ---- JSON schemas

SMALL = st.integers(0, 3)
LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            {"type": "boolean"},
            {"type": ["null", "boolean"], "title": "maybe"},
            {"type": "integer", "minimum": -7, "maximum": 120},
            {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 40},
            {"type": "integer", "multipleOf": 12, "minimum": 0, "maximum": 9999},
            {"type": "number", "minimum": -1.5, "maximum": 2},
            {"type": "string", "pattern": "^(x|yy)*z$"},
            {"type": "string", "pattern": r"\d-\w"},
            {"type": "string", "format": "date", "description": "a day"},
            {"type": "string", "format": "ipv4"},
            {"const": {"a": [1, 2], "é": None}},
        ]
    ),
    st.builds(lambda a, n: {"type": "string", "minLength": a, "maxLength": a + n}, SMALL, SMALL),
    st.lists(st.sampled_from([1, "1", None, [1], {"k": 'q"\n'}, -2.5, "é"]), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
)


@st.composite
def objects(draw: st.DrawFn, parts: st.SearchStrategy[Any]) -> dict[str, Any]:
    properties = draw(st.dictionaries(st.sampled_from(["a", "b", "c d", "é", '"']), parts, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    return closed(properties, required)


def closed(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def holding(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(parts, min_size=1, max_size=3)
    return st.one_of(
        objects(parts),
        st.builds(
            lambda part, a, n: {"type": "array", "items": part, "minItems": a, "maxItems": a + n},
            parts,
            SMALL,
            SMALL,
        ),
        some.map(lambda items: {"type": "array", "prefixItems": items, "items": False}),
        some.map(lambda choices: {"anyOf": choices}),
        parts.map(lambda part: {"allOf": [part, {"$comment": "and nothing more"}]}),
    )


SCHEMAS = st.recursive(LEAVES, holding, max_leaves=6)
SCHEMAS = SCHEMAS | SCHEMAS.map(lambda part: {"$ref": "#/$defs/x~1%20y", "$defs": {"x/ y": part}})


@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_answers_fit_their_schema(chatml: Tokenizer, schema: dict[str, Any], seed: int) -> None:
    chat = Chat(chatml)
    drawn = draw(chat, Form(schema=schema), seed, most=900)
    if drawn.ended:  # numbers may go on for long
        jsonschema.Draft202012Validator(schema).validate(json.loads(content(chat, drawn).content))


def test_most_answers_come_to_an_end(chatml: Tokenizer) -> None:
    schema = closed({"a": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 4}}, ["a"])
    chat = Chat(chatml)
    assert all(draw(chat, Form(schema=schema), seed).ended for seed in range(30))


def test_json_mode(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    wanted = chat.tokenizer.encode('{"hello": [1, 2.5e3, null, {"é": "\\n"}]}')
    drawn = draw(chat, Form(schema=JSON_OBJECT), wanted=wanted)
    assert json.loads(content(chat, drawn).content) == {"hello": [1, 2500.0, None, {"é": "\n"}]}


@pytest.mark.parametrize(
    ("text", "ok"),
    [('{"a":1}', True), ('{ "a": 1}', True), ("[]", False), (" {}", False), ('{"b":1}', False)],
)
def test_what_a_schema_lets_through(chatml: Tokenizer, text: str, ok: bool) -> None:
    chat = Chat(chatml)
    drawn = draw(chat, Form(schema=FORM), wanted=chat.tokenizer.encode(text))
    assert (content(chat, drawn).content == text) is ok


def test_white_space_comes_to_an_end(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    drawn = draw(chat, Form(schema=FORM), wanted=chat.tokenizer.encode("{" + "\n \n  " * 40))
    assert content(chat, drawn).content.count("\n") < 6


def test_an_answer_may_end_exactly_where_it_is_complete(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    wanted = chat.tokenizer.encode('{"a":22}')
    drawn = draw(chat, Form(schema=FORM), wanted=wanted)
    may_end = [set(chat.stop_tokens) & set(allowed_tokens(mask, 300)) for mask in drawn.masks]
    assert drawn.tokens[: len(wanted)] == wanted
    assert may_end == [set()] * len(wanted) + [set(chat.stop_tokens)]
    assert allowed_tokens(drawn.masks[-1], 300) == sorted(chat.stop_tokens)


# ---- regular expressions


@pytest.mark.parametrize(
    "pattern",
    [r"\d{3}-[a-f]{2}(x|yz)+", r"(?i)yes|no", r"[^\n]{1,9}", r"é+|ü{2}/\w", r"(a|b)*a(a|b){3}", "^a$"],
)
def test_answers_match_their_pattern(chatml: Tokenizer, pattern: str) -> None:
    chat = Chat(chatml)
    for seed in range(5):
        drawn = draw(chat, Form(pattern=pattern), seed)
        assert drawn.ended
        assert re.fullmatch(pattern, content(chat, drawn).content, re.ASCII)


def test_markup_is_no_text(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    drawn = draw(chat, Form(pattern=r"(?s:.*)"), most=1)
    markup = set(chat.tokenizer.markup) - set(chat.stop_tokens)
    assert not markup & set(allowed_tokens(drawn.masks[0], 300))


# ---- thinking


def answer_in_parts(chat: Chat, prompt: Sequence[int], *parts: str) -> Drawn:
    wanted = [token for part in parts for token in chat.tokenizer.encode(part, special=False)]
    return draw(chat, Form(schema=FORM), prompt=prompt, wanted=wanted)


def test_the_form_begins_after_thinking(r1: Chat) -> None:
    prompt = ask(r1)
    wanted = r1.tokenizer.encode('{"not yet": </thi</think>\n\n{"a":22}')
    message = content(r1, draw(r1, Form(schema=FORM), prompt=prompt, wanted=wanted), prompt)
    assert message.reasoning == '{"not yet": </thi'
    assert message.content == '{"a":22}'


def test_thinking_that_is_closed_in_plain_letters_is_closed(r1: Chat) -> None:
    prompt = ask(r1)
    message = content(r1, answer_in_parts(r1, prompt, "hm", "</think", ">", '{"a":1}'), prompt)
    assert (message.reasoning, message.content) == ("hm", '{"a":1}')


def test_no_token_closes_thinking_and_goes_on(build: Any) -> None:
    """`k>` is a token of this vocabulary; here `>{` is one as well, which would begin the answer unguided."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        models.BPE({text: i for i, text in enumerate([*alphabet, ">{"])}, [(">", "{")])
    )
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.add_tokens([AddedToken("<|im_end|>", special=True), AddedToken("<|im_start|>", special=True)])
    chat = Chat(
        Tokenizer(backend, names={"eos_token": "<|im_end|>"}),
        template="{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|><think>",
    )
    prompt = ask(chat)
    assert chat.opens_thinking(prompt)
    wanted = [*chat.tokenizer.encode("a >{ b </think"), chat.tokenizer.encode(">{")[0]]
    drawn = draw(chat, Form(schema=FORM), prompt=prompt, wanted=wanted)
    assert drawn.tokens[: len(wanted) - 1] == wanted[:-1]
    assert drawn.tokens[len(wanted) - 1] != wanted[-1]
    if drawn.ended:
        json.loads(content(chat, drawn, prompt).content)


def test_thinking_cannot_end_the_answer(r1: Chat) -> None:
    drawn = draw(r1, Form(schema=FORM), prompt=ask(r1), most=1)
    assert not set(r1.stop_tokens) & set(allowed_tokens(drawn.masks[0], 300))


def test_a_model_that_may_think_chooses(qwen3: Chat) -> None:
    prompt = ask(qwen3)
    think = qwen3.tokenizer.encode("<think>\nwell\n</think>\n\n")
    for wanted in ([], think):
        drawn = draw(
            qwen3, Form(schema=FORM), prompt=prompt, wanted=[*wanted, *qwen3.tokenizer.encode('{"a":1}')]
        )
        message = content(qwen3, drawn, prompt)
        assert message.content == '{"a":1}'
        assert message.reasoning == ("well" if wanted else None)
    closed_prompt = ask(qwen3, thinking=False)
    drawn = draw(qwen3, Form(schema=FORM), prompt=closed_prompt, most=1)
    assert think[0] not in allowed_tokens(drawn.masks[0], 300)


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("form", [{}, {"schema": FORM}])
def test_a_budget_of_thinking(r1: Chat, tokens: int, form: dict[str, Any]) -> None:
    prompt = ask(r1)
    wanted = r1.tokenizer.encode("abcdefghij")
    drawn = draw(r1, Form(thinking_budget=tokens, **form), prompt=prompt, wanted=wanted, most=200)
    closing = r1.tokenizer.encode(r1.format.early_stop if tokens else "</think>\n\n")
    assert drawn.tokens[: tokens + len(closing)] == wanted[:tokens] + closing
    message = content(r1, drawn, prompt)
    assert (message.reasoning or "").startswith("abcdefghij"[:tokens])
    if form and drawn.ended:
        jsonschema.validate(json.loads(message.content), FORM)


def test_thinking_within_its_budget_is_left_alone(r1: Chat) -> None:
    wanted = r1.tokenizer.encode("abc</think>done")
    drawn = draw(r1, Form(thinking_budget=9), prompt=ask(r1), wanted=wanted)
    assert drawn.tokens == [*wanted, r1.stop_tokens[0]]
    assert set(drawn.masks) == {None}


def test_a_budget_waits_for_a_character_to_be_complete(r1: Chat) -> None:
    wanted = r1.tokenizer.encode("é")
    drawn = draw(r1, Form(thinking_budget=1), prompt=ask(r1), wanted=wanted, most=10)
    assert drawn.tokens[:2] == wanted


def test_a_budget_where_the_model_opens_thinking_itself(qwen3: Chat) -> None:
    wanted = qwen3.tokenizer.encode("<think>abcdef")
    drawn = draw(qwen3, Form(thinking_budget=3), wanted=wanted, most=300)
    assert qwen3.tokenizer.decode(drawn.tokens).startswith("<think>abc" + qwen3.format.early_stop)


# ---- calls of tools

CALLING = {name for name, kind in all_formats().items() if kind.calls and not kind.channels}


def calling_chat(name: str) -> Chat:
    """A chat in a format, over a vocabulary of bytes and the format's markup, as far as it is not spelled."""
    kind = all_formats()[name]
    tokens = {text for text in kind.markup if not any(part in text for part in kind.markup - {text})}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    backend.add_tokens([AddedToken(text, special=True) for text in sorted({*tokens, "<eos>"})])
    tokenizer = Tokenizer(backend, names={"eos_token": "<eos>"})
    return Chat(tokenizer, template="{{ messages[0].content }}", format_name=name)


def check_calls(message: Message) -> None:
    for call in message.tool_calls:
        arguments = json.loads(call.arguments)
        schemas = {tool.name: {"type": "object", **tool.parameters} for tool in (WEATHER, CLOCK)}
        jsonschema.validate(arguments, schemas[call.name])


@pytest.mark.parametrize("name", sorted(CALLING))
@pytest.mark.parametrize("parallel", [False, True])
def test_required_calls(name: str, parallel: bool) -> None:
    chat = calling_chat(name)
    form = Form(tools=(WEATHER, CLOCK), calls="required", parallel=parallel)
    tools = [{"function": {"name": tool.name, "parameters": tool.parameters}} for tool in form.tools]
    drawn_at_random = [draw(chat, form, seed, most=600) for seed in range(9)]
    ended = [drawn for drawn in drawn_at_random if drawn.ended]  # a free text may go on for ever
    assert ended
    for drawn in ended:
        parser = chat.stream(ask(chat), tools=tools)
        for token in drawn.tokens:
            parser.push(token)
        parser.finish()
        message = parser.message()
        assert message.tool_calls
        assert message.content.strip() == ""
        assert parallel or len(message.tool_calls) == 1
        check_calls(message)


@pytest.mark.parametrize("name", sorted(CALLING))
def test_strict_calls_in_a_free_answer(name: str) -> None:
    chat = calling_chat(name)
    kind = chat.format
    assert kind.calls is not None
    opener = max((opening for opening, _ in kind.tool_sections), key=len)
    form = Form(tools=(WEATHER, CLOCK), calls="strict", parallel=False)
    tools = [{"function": {"name": tool.name, "parameters": tool.parameters}} for tool in form.tools]
    wanted = chat.tokenizer.encode(f"Let me see.\n{opener}")
    drawn_at_random = [draw(chat, form, seed, wanted=wanted, most=600) for seed in range(9)]
    assert all(drawn.masks[0] is None for drawn in drawn_at_random), "free text costs nothing"
    ended = [drawn for drawn in drawn_at_random if drawn.ended]
    assert ended
    for drawn in ended:
        parser = chat.stream(ask(chat), tools=tools)
        for token in drawn.tokens:
            parser.push(token)
        parser.finish()
        message = parser.message()
        assert message.content.startswith("Let me see.")
        assert len(message.tool_calls) == 1
        check_calls(message)


@pytest.mark.parametrize("name", sorted(CALLING))
def test_calls_as_the_format_writes_them_are_allowed(name: str) -> None:
    chat = calling_chat(name)
    assert chat.format.calls is not None
    given = {"city": "Rom", "note": 'a < b, </par\n"c"', "days": 3}
    calls = [
        ToolCall(name="get_weather", arguments=json.dumps(given)),
        ToolCall(name="clock", arguments="{}"),
    ]
    wanted = chat.tokenizer.encode(chat.format.calls.write(calls))
    drawn = draw(chat, Form(tools=(WEATHER, CLOCK), calls="required"), wanted=wanted, most=len(wanted) + 1)
    assert chat.tokenizer.decode(drawn.tokens[:-1]) == chat.tokenizer.decode(wanted)
    assert drawn.ended


# ---- answers in several messages

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
TO_WEATHER = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
TO_WEATHER_TOO = " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>"
REMARK = "<|channel|>commentary<|message|>Let me see.<|end|><|start|>assistant"


def harmony(form: Form, *parts: str, seed: int = 0, most: int = 600) -> tuple[Drawn, Message]:
    """An answer that begins as `parts` say where it may, and the message that it is."""
    chat = calling_chat("gpt_oss")
    drawn = draw(chat, form, seed, wanted=chat.tokenizer.encode("".join(parts)), most=most)
    return drawn, chat.parse(drawn.tokens, ask(chat), tools=form.offered)


@pytest.mark.parametrize("before", ["", THOUGHT, THOUGHT + THOUGHT])
def test_channels_keep_to_a_schema(before: str) -> None:
    drawn, message = harmony(Form(schema=FORM), before, '<|channel|>final<|message|>{"a": 22}')
    assert drawn.ended
    assert message.content == '{"a": 22}'
    assert (message.reasoning or "").startswith("Hm." if before else "")
    for seed in range(5):
        drawn, message = harmony(Form(schema=FORM), before, "<|channel|>final<|message|>", seed=seed)
        assert drawn.ended
        jsonschema.validate(json.loads(message.content), FORM)


@pytest.mark.parametrize("before", ["", THOUGHT])
@pytest.mark.parametrize("opening", [TO_WEATHER, TO_WEATHER_TOO])
def test_channels_with_required_calls(before: str, opening: str) -> None:
    form = Form(tools=(WEATHER, CLOCK), calls="required")
    drawn, message = harmony(form, before, opening, '{"city": "Rom"}')
    assert drawn.ended
    assert message.tool_calls == (ToolCall(name="get_weather", arguments='{"city": "Rom"}'),)
    drawn, message = harmony(form, before, "<|channel|>final<|message|>no", most=200)
    assert message.content == ""
    for seed in range(5):
        drawn, message = harmony(form, before, opening + '{"city": "', seed=seed)
        if drawn.ended:  # a note may go on for ever
            check_calls(message)
            assert len(message.tool_calls) == 1


@pytest.mark.parametrize("before", ["", THOUGHT, THOUGHT + REMARK])
def test_channels_with_strict_calls(before: str) -> None:
    form = Form(tools=(WEATHER, CLOCK), calls="strict")
    _, message = harmony(form, before, "<|channel|>final<|message|>No need.")
    assert (message.content.endswith("No need."), message.tool_calls) == (True, ())
    drawn, message = harmony(form, before, TO_WEATHER, '{"city": "Ulm", "city": "Bern"}')
    assert message.content == ("Let me see." if before.endswith(REMARK) else "")
    assert drawn.ended
    check_calls(message)


@pytest.mark.parametrize("calls", ["free", "required"])
@pytest.mark.parametrize("budget", [1, 3])
def test_channels_with_a_budget(calls: Any, budget: int) -> None:
    form = Form(tools=(CLOCK,), calls=calls, thinking_budget=budget)
    thought = "<|channel|>analysis<|message|>abcdefgh"
    drawn, message = harmony(form, thought, seed=1, most=90)
    assert message.reasoning == "abcdefgh"[:budget]
    if calls == "required":
        assert drawn.ended
        check_calls(message)


def test_what_a_format_cannot_do_names_it() -> None:
    refused: tuple[tuple[str, Any], ...] = (
        ("plain", "strict"),
        ("plain", "required"),
        ("gemma", "required"),
        ("deepseek_coder", "strict"),
    )
    for name, calls in refused:
        with pytest.raises(RequestError, match=f"the chat format '{name}'"):
            draw(calling_chat(name), Form(tools=(CLOCK,), calls=calls))


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ({"a": {}}, "needs one type"),
        ({"a": {"type": ["string", "null"]}}, "needs one type"),
        ({"a": {"type": "string", "pattern": "x"}}, "'pattern' is not supported"),
        ({"a": {"type": "string", "enum": [1]}}, "one of"),
        ({"a></arg_key>": {"type": "string"}}, "is a word"),
    ],
)
def test_arguments_that_cannot_be_kept_as_text(properties: dict[str, Any], error: str) -> None:
    tool = ToolForm(name="a", parameters={"properties": properties})
    with pytest.raises(RequestError, match=error):
        draw(calling_chat("glm"), Form(tools=(tool,), calls="required"))


def test_strict_calls_may_be_left_out(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    drawn = draw(chat, Form(tools=(CLOCK,), calls="strict"), wanted=chat.tokenizer.encode("No need."))
    assert content(chat, drawn) == Message(role="assistant", content="No need.")


def test_arguments_cannot_end_their_call(chatml: Tokenizer) -> None:
    """The parser ends a section at the first closing tag, whatever it stands in."""
    say = ToolForm(name="say", parameters={"properties": {"x": {"type": "string"}}, "required": ["x"]})
    chat = Chat(chatml)
    begin = chat.tokenizer.encode('<tool_call>\n{"name": "say", "arguments": {"x": "')
    evil = chat.tokenizer.encode("</tool_call>", special=False)
    wanted = [*begin, *evil, *chat.tokenizer.encode('"}}\n</tool_call>')]
    drawn = draw(chat, Form(tools=(say,), calls="required", parallel=False), wanted=wanted, most=500)
    assert drawn.tokens[: len(begin) + len(evil) - 1] == wanted[: len(begin) + len(evil) - 1]
    assert drawn.tokens[len(begin) + len(evil) - 1] != evil[-1]
    (call,) = content(chat, drawn).tool_calls
    assert json.loads(call.arguments)["x"].startswith("</tool_call")


def test_calls_after_thinking(r1: Chat) -> None:
    prompt = ask(r1)
    wanted = r1.tokenizer.encode("I call.</think>")
    drawn = draw(
        r1, Form(tools=(CLOCK,), calls="required", parallel=False), prompt=prompt, wanted=wanted, most=900
    )
    message = content(r1, drawn, prompt)
    assert (message.reasoning, message.content) == ("I call.", "")
    assert [call.name for call in message.tool_calls] == ["clock"]


def test_tools_that_are_not_strict_take_any_object(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    loose = ToolForm(name="get_weather", parameters=WEATHER.parameters, strict=False)
    wanted = chat.tokenizer.encode(
        '<tool_call>\n{"name": "get_weather", "arguments": {"where": 1}}\n</tool_call>'
    )
    drawn = draw(chat, Form(tools=(loose,), calls="required", parallel=False), wanted=wanted)
    assert drawn.tokens[:-1] == wanted


# ---- what is refused


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


HOSTILE: list[tuple[dict[str, Any], str]] = [
    (nested(60_000), "nested more than 64 deep"),
    ({"enum": ["x" * 100] * 1000}, " bytes as JSON"),
    ({"type": "string", "bogus": 1}, "keyword 'bogus'"),
    ({"x-guidance": {"lenient": True}}, "keyword 'x-guidance'"),
    ({"properties": {"a": {"not": {}}}}, "schema/properties/a: the keyword 'not'"),
    ({"type": "array", "uniqueItems": True}, "keyword 'uniqueItems'"),
    ({"type": "object", "minProperties": 2}, "keyword 'minProperties'"),
    ({"$ref": "#"}, "leads back to itself"),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "leads back to itself",
    ),
    ({"$ref": "#/$defs/none"}, "leads to no schema"),
    ({"$ref": "#/default/a", "default": {"a": {"bogus": 1}}}, "leads to no schema"),
    ({"$ref": "https://example.com/schema"}, "only references into the schema itself"),
    ({"type": "integer", "multipleOf": 999_983}, "at most 10000"),
    ({"type": "integer", "multipleOf": 0}, "over 0"),
    ({"type": "string", "format": "bogus"}, "bogus"),
    ({"type": "string", "pattern": "(a"}, "schema"),
    ({"type": "string", "pattern": "(?=a)b"}, "schema"),
    ({"type": "nonsense"}, "nonsense"),
    ({"properties": {"a": False}, "required": ["a"], "type": "object"}, "nsatisfiable"),
    ({"allOf": [{"$ref": "#"}, {"type": "object"}]}, "schema"),
    ({"properties": []}, "must be an object of schemas"),
    ({"anyOf": {}}, "must be a list of schemas"),
    ({"items": 5}, "must be a JSON schema"),
    ({"const": float("nan")}, "not JSON"),
    ({"const": {1, 2}}, "not JSON"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    (
        {
            "allOf": [
                {
                    "anyOf": [
                        closed({f"{k}{i}": {"const": 1}}, [f"{k}{i}"]) | {"additionalProperties": True}
                        for k in "ab"
                    ]
                }
                for i in range(14)
            ]
        },
        "too large",
    ),
]


@pytest.mark.parametrize(("schema", "error"), HOSTILE, ids=[error for _, error in HOSTILE])
def test_schemas_that_are_refused(chatml: Tokenizer, schema: dict[str, Any], error: str) -> None:
    chat = Chat(chatml)
    guides = Guides(chat, chat.tokenizer.vocab_size)
    guides.factory(Form(schema=JSON_OBJECT), ask(chat))
    start = perf_counter()
    with pytest.raises(RequestError, match=re.escape(error)):
        guides.factory(Form(schema=schema), ask(chat))
    assert perf_counter() - start < 2


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        ("(a", "unclosed"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        ("x" * 9000, "9000 characters"),
    ],
)
def test_patterns_that_are_refused(chatml: Tokenizer, pattern: str, error: str) -> None:
    chat = Chat(chatml)
    with pytest.raises(RequestError, match=error):
        draw(chat, Form(pattern=pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "((((a{1,100}){1,100}){1,100}){1,100})",
        "(a|b)*a(a|b){300}",
        "(.*a){40}.*",
        r"(\w*\d\w*){30}",
        "(a?){4000}a{4000}",
    ],
)
def test_hostile_patterns_end_soon(chatml: Tokenizer, pattern: str) -> None:
    """They are followed, or refused on the way; none holds up the engine."""
    chat = Chat(chatml)
    guides = Guides(chat, chat.tokenizer.vocab_size)
    guides.factory(Form(schema=JSON_OBJECT), ask(chat))
    times = [perf_counter()]
    with suppress(RequestError):
        factory = guides.factory(Form(pattern=pattern), ask(chat))
        assert factory is not None
        guide = factory()
        for token in chat.tokenizer.encode("abaabbbaab0a1a" * 20):
            if token not in allowed_tokens(guide.allowed(), 300):
                break
            guide.push(token)
            times.append(perf_counter())
    times.append(perf_counter())
    assert max(later - earlier for earlier, later in pairwise(times)) < 2


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"schema": {}, "pattern": "a"}, "only one"),
        ({"schema": {}, "calls": "required", "tools": (CLOCK,)}, "drop"),
        ({"calls": "required"}, "no tools"),
        ({"thinking_budget": -1}, "at least 0"),
    ],
)
def test_forms_that_make_no_sense(form: dict[str, Any], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        Form(**form)


@pytest.mark.parametrize(
    ("tools", "error"),
    [
        ((ToolForm(name='a"b'),), "1 to 64 letters"),
        ((CLOCK, CLOCK), "two of this name"),
        ((ToolForm(name="a", parameters={"type": "array"}),), "not an object"),
        ((ToolForm(name="a", parameters={"bogus": 1}),), "the schema of tool 'a': the keyword 'bogus'"),
    ],
)
def test_tools_that_are_refused(chatml: Tokenizer, tools: tuple[ToolForm, ...], error: str) -> None:
    with pytest.raises(RequestError, match=error):
        draw(Chat(chatml), Form(tools=tools, calls="required"))


def test_a_plain_text_has_no_calls(chatml: Tokenizer) -> None:
    chat = Chat(chatml)
    guides = Guides(chat, chat.tokenizer.vocab_size)
    with pytest.raises(RequestError, match="plain text"):
        guides.factory(Form(tools=(CLOCK,), calls="required"), [1], raw=True)
    assert guides.factory(Form(), [1]) is None


def test_a_schema_as_large_as_may_be(chatml: Tokenizer) -> None:
    names = [f"property_{i}" for i in range(1200)]
    schema = closed({name: {"type": "string"} for name in names}, names)
    assert len(checked_schema(schema)) < MAX_SCHEMA_BYTES
    chat = Chat(chatml)
    start = perf_counter()
    drawn = draw(chat, Form(schema=schema), most=50)
    assert len(drawn.tokens) == 50
    assert perf_counter() - start < 5
