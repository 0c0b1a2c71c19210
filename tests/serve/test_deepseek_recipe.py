"""Requests and answers beside DeepSeek's own package `deepseek-recipe`: the same verdicts in the same words.

Where Mohist differs, it does so on purpose. `DIFFERENCES` is the whole list, and docs/serve.md shows it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mohist.chat.delta import TextKind
from mohist.serve.answer import Event, Finished, Piece, Started, ToolCallPiece, Usage
from mohist.serve.errors import ApiError
from mohist.serve.openai_body import ChatBody
from mohist.serve.openai_check import check_chat
from mohist.serve.openai_shape import ChatChunks, error_body
from mohist.serve.settings import LimitsConfig
from mohist.types import ToolCall

pytestmark = pytest.mark.parity
recipe = pytest.importorskip("deepseek_recipe")

MODEL = "DeepSeek-V4.1-Flash"
OK, MALFORMED = "ok", "malformed"
Body = dict[str, Any]


STREAM_DIFFERENCES = {
    "`reasoning` beside `reasoning_content`": "Clients of other servers read it.",
    "where the arguments of a call are cut": "A piece is what one token made certain.",
    "`completion_tokens_details` in every usage": "Zero is a number too.",
}
"""What `comparable` takes away."""


@dataclass(frozen=True)
class Difference:
    """Requests about which the two disagree on purpose."""

    what: str
    reason: str
    applies: Callable[[Body], bool]
    ours: str
    """Our verdict: OK, MALFORMED, or how our message begins."""


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def roles(body: Body) -> set[Any]:
    return {one.get("role") for one in messages(body)}


def messages(body: Body) -> list[Body]:
    given = body.get("messages")
    return [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []


def functions(body: Body) -> list[Body]:
    tools = body.get("tools")
    found = (
        [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    )
    return [one for one in found if isinstance(one, dict)]


def choice_of_tool(body: Body) -> Any:
    return body.get("tool_choice")


def demands_a_call(body: Body) -> bool:
    choice = choice_of_tool(body)
    return choice == "required" or (isinstance(choice, dict) and isinstance(choice.get("function"), dict))


def schema_of_format(body: Body) -> Any:
    shape = body.get("response_format")
    named = shape.get("json_schema") if isinstance(shape, dict) else None
    return named.get("schema") if isinstance(named, dict) else None


DIFFERENCES = [
    Difference(
        "`model` may be left out",
        "A server of one model needs no name; `default` is the first model.",
        lambda body: "model" not in body,
        OK,
    ),
    Difference(
        "`n` up to `limits.max_n`",
        "The engine computes a prompt once for all its choices.",
        lambda body: is_int(body.get("n")) and 2 <= body["n"] <= 16,
        OK,
    ),
    Difference(
        "`n` out of range",
        "The range is another one, and so is its message.",
        lambda body: is_int(body.get("n")) and not 1 <= body["n"] <= 16,
        "Invalid n value, the valid range of n is [1, 16]",
    ),
    Difference(
        "`max_tokens` without an upper bound",
        "The model's context is the bound: an answer that reaches it ends with `length`.",
        lambda body: is_int(body.get("max_tokens")) and body["max_tokens"] > 393216,
        OK,
    ),
    Difference(
        "`max_tokens` below 1",
        "There is no upper bound to tell.",
        lambda body: is_int(body.get("max_tokens")) and body["max_tokens"] < 1,
        "Invalid max_tokens value, it must be at least 1",
    ),
    Difference(
        "`max_completion_tokens` counts",
        "OpenAI's newer clients send nothing else; DeepSeek ignores it.",
        lambda body: body.get("max_completion_tokens") == "x",
        MALFORMED,
    ),
    Difference(
        "negative `seed`",
        "OpenAI's seeds are signed.",
        lambda body: is_int(body.get("seed")) and -(2**63) <= body["seed"] < 0,
        OK,
    ),
    Difference(
        "`seed` from 2**63 on",
        "The engine's seeds have 64 bits.",
        lambda body: is_int(body.get("seed")) and 2**63 <= body["seed"] < 2**64,
        OK,
    ),
    Difference(
        "tools that may not be called are checked too",
        "A mistake in them is one whatever `tool_choice` says.",
        lambda body: choice_of_tool(body) == "none" and bool(functions(body)) and ours(body) != OK,
        "Tool names must be unique.",
    ),
    Difference(
        "a call may be demanded while the model thinks",
        "The grammar of the call applies after the thinking.",
        lambda body: (
            demands_a_call(body)
            and bool(functions(body))
            and (
                choice_of_tool(body) == "required"
                or choice_of_tool(body)["function"].get("name")
                in {one.get("name") for one in functions(body)}
            )
        ),
        OK,
    ),
    Difference(
        '`tool_choice` "required" without tools',
        "What is demanded cannot be done.",
        lambda body: choice_of_tool(body) == "required" and not functions(body),
        "tool_choice needs tools",
    ),
    Difference(
        "`tool_choice` names a tool, and there are none",
        "The package looks at the name only where there are tools.",
        lambda body: isinstance(choice_of_tool(body), dict) and demands_a_call(body) and not functions(body),
        "Invalid value for 'tool_call': no function named",
    ),
    Difference(
        "the role `developer`",
        "OpenAI's clients send it; it is `system`.",
        lambda body: "developer" in roles(body),
        OK,
    ),
    Difference(
        "the role `latest_reminder`",
        "It belongs to the encoding of DeepSeek V4, not to the API.",
        lambda body: "latest_reminder" in roles(body),
        MALFORMED,
    ),
    Difference(
        "pictures and files",
        "The models are models of text.",
        lambda body: any(
            isinstance(part, dict) and part.get("type") in ("image_url", "file")
            for one in messages(body)
            if isinstance(one.get("content"), list)
            for part in one["content"]
        ),
        MALFORMED,
    ),
    Difference(
        "names of tools have at most 64 characters",
        "As both APIs document.",
        lambda body: any(
            isinstance(one.get("name"), str) and len(one["name"]) > 64 for one in functions(body)
        ),
        "Invalid 'tools[0].function.name': string too long",
    ),
    Difference(
        "at most `limits.max_tools` tools",
        "As both APIs document.",
        lambda body: isinstance(body.get("tools"), list) and len(body["tools"]) > 128,
        "129 tools: at most 128 are allowed",
    ),
    Difference(
        "`prefix` only on the assistant's last message",
        "The package lets it pass, and has no effect, on a user's last message.",
        lambda body: (
            bool(messages(body))
            and messages(body)[-1].get("prefix") is True
            and messages(body)[-1].get("role") == "user"
        ),
        "Invalid completion message: prefix set true",
    ),
    Difference(
        "`tools[].function.strict`: other words about schemas",
        "The grammar compiler judges the schema, and names what it cannot do.",
        lambda body: (
            any(one.get("strict") for one in functions(body))
            and len({bool(one.get("strict")) for one in functions(body)}) == 1
        ),
        OK,
    ),
    Difference(
        "parameters that are no object",
        "Other words about the same mistake.",
        lambda body: any(
            "parameters" in one and not isinstance(one["parameters"], dict | None) for one in functions(body)
        ),
        "Invalid schema for function",
    ),
    Difference(
        "a schema that is no object",
        "Other words about the same mistake.",
        lambda body: (
            schema_of_format(body) is not None and not isinstance(schema_of_format(body), dict | bool)
        ),
        "Invalid json schema",
    ),
    Difference(
        "a function may be called without its `type`",
        "OpenAI's clients leave it out in histories of their own making.",
        lambda body: any(
            isinstance(call, dict) and "type" not in call and "function" in call
            for one in messages(body)
            for call in one.get("tool_calls") or []
        ),
        OK,
    ),
    Difference(
        "`thinking.budget_tokens` is at least 1",
        "It is enforced; the package ignores it.",
        lambda body: isinstance(body.get("thinking"), dict) and body["thinking"].get("budget_tokens") == 0,
        MALFORMED,
    ),
]

USER = {"role": "user", "content": "hi"}
CALLS = [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
TOOL = {"role": "tool", "tool_call_id": "c1", "content": "x"}
CALLING = {"role": "assistant", "tool_calls": CALLS}
ANSWER = {"role": "assistant", "content": "a"}


def tool(name: Any = "f", **more: Any) -> Body:
    return {"type": "function", "function": {"name": name, **more}}


STRICT = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
VALUES: dict[str, list[Any]] = {
    "model": [1, None],
    "messages": [
        *([], "x", None, [{}], [3], [{"role": "x", "content": "a"}], [{"role": "user"}]),
        *([{"role": "user", "content": None}], [{"role": "user", "content": 3}], [ANSWER], [USER, ANSWER]),
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}],
        [{"role": "user", "content": [{"type": "audio", "text": "a"}]}],
        [{"role": "user", "content": []}],
        [{"role": "developer", "content": "a"}],
        [{"role": "latest_reminder", "content": "a"}, USER],
        [{"role": "assistant"}],
        [USER, {"role": "assistant", "content": None}],
        [USER, {"role": "assistant", "content": ""}],
        [{**USER, "name": "bob"}],
        [{**USER, "name": 3}],
        [{**USER, "mood": 3}],
        [USER, TOOL],
        [USER, CALLING],
        [USER, CALLING, TOOL],
        [USER, CALLING, TOOL, TOOL],
        [USER, CALLING, {**TOOL, "tool_call_id": "c2"}],
        [USER, CALLING, {"role": "tool", "content": "x"}],
        [USER, CALLING, USER],
        [USER, {**CALLING, "content": None, "reasoning_content": None}, TOOL],
        [USER, {"role": "assistant", "tool_calls": []}],
        [USER, {"role": "assistant", "tool_calls": [{"id": "c1"}]}, TOOL],
        [USER, {"role": "assistant", "tool_calls": [{"id": "c1", "function": CALLS[0]["function"]}]}, TOOL],
        [USER, {**ANSWER, "prefix": True}],
        [USER, {**ANSWER, "prefix": True}, USER],
        [USER, {**ANSWER, "prefix": False}],
        [{**USER, "prefix": True}],
        [USER, {**ANSWER, "reasoning_content": "r", "prefix": True}],
        [{"role": "user", "content": "Some JSON, please"}],
    ],
    "temperature": [-1, 2.5, 0, 2, 1.5, "1", None, True],
    "top_p": [-1, 1.5, 0, 1, 0.5, "1", None],
    "max_tokens": [0, 1, -1, 393216, 393217, 1.5, "1", None],
    "max_completion_tokens": [5, "x"],
    "n": [0, 1, 2, 17, None, "1"],
    "logprobs": [True, False, 1, None],
    "top_logprobs": [0, 20, 21, -1, None, "1"],
    "stop": ["a", ["a"], ["a"] * 16, ["a"] * 17, [], "", [""], ["a", ""], None, 3, [3]],
    "stream": [True, False, "x", None],
    "stream_options": [{"include_usage": True}, {}, None, {"include_usage": None}, {"include_usage": 3}, 3],
    "thinking": [
        *(
            {"type": "enabled"},
            {"type": "disabled"},
            {"type": "adaptive"},
            {"type": "x"},
            {},
            None,
            "enabled",
        ),
        {"type": "enabled", "budget_tokens": 5},
        {"type": "enabled", "budget_tokens": 0},
    ],
    "reasoning_effort": ["low", "medium", "high", "max", "minimal", "xhigh", "ultra", "none", "x", None, 3],
    "presence_penalty": [-2, 2, 2.1, -2.1, None, "x"],
    "frequency_penalty": [-2, 2, 2.1, -2.1, None, "x"],
    "seed": [1, -1, "x", 2**64 - 1, 2**64, None, 1.5],
    "response_format": [
        *(
            {"type": "text"},
            {"type": "json_object"},
            {"type": "x"},
            {},
            None,
            "text",
            {"type": "json_schema"},
        ),
        *({"type": "regex"}, {"type": "regex", "regex": "a+"}, {"type": "json_schema", "json_schema": {}}),
        {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": "x"}},
    ],
    "tools": [
        *(
            [],
            None,
            [tool()],
            [tool("a b")],
            [tool("a" * 64)],
            [tool("a" * 65)],
            [tool("")],
            [tool(), tool()],
        ),
        *([{"type": "x", "function": {"name": "f"}}], [{"type": "function"}], [{}], [tool(3)], 3),
        *([tool(str(i)) for i in range(129)], [tool(parameters="x")], [tool(parameters={"type": "string"})]),
        *([tool(parameters={})], [tool(parameters=None)], [tool(description=3)], [tool(parameters=STRICT)]),
        [tool(strict=True, parameters={**STRICT, "required": []})],
        *([tool(strict=True, parameters=STRICT)], [tool(strict=True, parameters=STRICT), tool("g")]),
    ],
    "tool_choice": [
        *("auto", "none", "required", "x", None, 3, {}, {"type": "function"}),
        {"type": "function", "function": {"name": "f"}},
        {"type": "function", "function": {"name": "g"}},
    ],
    **{name: [1, "a", None, {"a": [1]}] for name in ("store", "user", "user_id", "mood")},
}
BASE: Body = {"model": MODEL, "messages": [USER]}


def theirs(body: Body) -> str:
    """The package's verdict: OK, MALFORMED, or its message."""
    try:
        recipe.ChatCompletionRequest(json.dumps(body)).convert(recipe.ConversionOptions())
    except recipe.ConversionError as error:
        return told(json.loads(error.body), error.status_code)
    except ValueError:
        return MALFORMED
    return OK


def ours(body: Body) -> str:
    """Ours."""
    try:
        check_chat(ChatBody.model_validate(json.loads(json.dumps(body))), LimitsConfig())
    except ValidationError:
        return MALFORMED
    except ApiError as error:
        return told(error_body(error), error.status)
    return OK


def told(error: Body, status: int) -> str:
    """The message of an error whose body both shape in the same way; ours also names `param`."""
    assert status == 400
    assert list(error) == ["error"]
    assert list(error["error"]) == ["message", "type", "param", "code"]
    assert error["error"]["type"] == "invalid_request_error"
    return error["error"]["message"]


def compare(body: Body, *, alone: bool) -> None:
    """Equal verdicts, or one of the listed differences. `alone`: nothing else is unusual about the body."""
    applying = [difference for difference in DIFFERENCES if difference.applies(body)]
    if not applying:
        assert ours(body) == theirs(body), body
    elif alone and len(applying) == 1:
        assert ours(body).startswith(applying[0].ours), (applying[0].what, ours(body))


def test_one_field_at_a_time() -> None:
    for name, values in VALUES.items():
        for value in values:
            compare({**BASE, name: value}, alone=True)
    for name in BASE:
        compare({key: value for key, value in BASE.items() if key != name}, alone=True)


def test_every_difference_is_one() -> None:
    """Each is met by a request to which it alone applies, and the package's verdict is another than ours."""
    met = set()
    bodies = [{**BASE, name: value} for name, values in VALUES.items() for value in values]
    bodies += [{**BASE, "tools": [tool()], "tool_choice": "required"}, {"messages": [USER]}]
    bodies += [{**BASE, "tools": [tool(), tool()], "tool_choice": "none"}]
    for body in bodies:
        applying = [difference for difference in DIFFERENCES if difference.applies(body)]
        if len(applying) == 1 and ours(body) != theirs(body):
            met.add(applying[0].what)
    assert met == {difference.what for difference in DIFFERENCES}


@settings(max_examples=400)
@given(
    st.lists(st.sampled_from(sorted(VALUES)), min_size=2, max_size=5, unique=True).flatmap(
        lambda names: st.fixed_dictionaries({name: st.sampled_from(VALUES[name]) for name in names})
    )
)
def test_generated_requests(fields: Body) -> None:
    compare(BASE | fields, alone=False)


SCRIPTS = [
    (["hm", "m", "</think>", "ans", "wer"], True, "stop"),
    (["ans", "wer"], False, "stop"),
    (["ans"], False, "length"),
    (["hm"], True, "length"),
    (["hm</think>ok\n\n", "CALL"], True, "tool_calls"),
    (["CALL"], False, "tool_calls"),
]
THEIR_CALL = (
    '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="false">1'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>"
)


def their_stream(script: list[str], thinks: bool, reason: str, include_usage: bool) -> list[Body]:
    body: Body = {"model": MODEL, "messages": [USER], "stream": True, "tools": [tool(parameters=STRICT)]}
    body |= {} if thinks else {"thinking": {"type": "disabled"}}
    body |= {"stream_options": {"include_usage": True}} if include_usage else {}
    request = recipe.ChatCompletionRequest(json.dumps(body)).convert(recipe.ConversionOptions())
    generator = recipe.ChatCompletionRequest.chunk_generator(request, "id", "m")
    processor = recipe.StreamProcessor(generator, request.parsing_options)
    prompt = recipe.PromptUsage(prompt_tokens=10, prompt_cache_hit_tokens=4)
    chunks = processor.push(recipe.InferenceChunk.ready(prompt_usage=prompt, system_fingerprint="fp"))
    for text in script:
        chunks += processor.push(recipe.InferenceChunk.text(text.replace("CALL", THEIR_CALL), 1))
    reasons = recipe.InferenceFinishReason
    last = reasons.Length if reason == "length" else reasons.Stop
    chunks += processor.push(recipe.InferenceChunk.finish(last))
    return [json.loads(chunk.to_json()) for chunk in [*chunks, *processor.finish()]]


def our_stream(script: list[str], thinks: bool, reason: Any, include_usage: bool) -> list[Body]:
    started = Started(model="m", fingerprint="fp", thinks=thinks, prompt_tokens=10, seed=0)
    chunks = ChatChunks(started, 1, with_logprobs=False, include_usage=include_usage)
    events: list[Event] = []
    thinking = thinks
    for text in script:
        before, closing, after = text.partition("</think>")
        kinds: list[tuple[TextKind, str]] = [("content", text)]
        if thinking:
            kinds = [("reasoning", before), ("content", after)]
        thinking = thinking and not closing
        if text.endswith("CALL"):
            begins = ToolCall(name="f", arguments="", id="c")
            events.append(ToolCallPiece(choice=0, index=0, text='{"a": ', begins=begins))
            events.append(ToolCallPiece(choice=0, index=0, text="1}", complete=True))
            continue
        # Line breaks before a call belong to neither side.
        pieces = [Piece(choice=0, kind=kind, text=one.rstrip("\n")) for kind, one in kinds if one]
        events += pieces
    usage = Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=len(script))
    events.append(Finished(choice=0, reason=reason, usage=usage))
    return [chunks.first(0), *(chunk for event in events for chunk in chunks.of(event))]


def comparable(chunks: list[Body]) -> list[Body]:
    """Chunks less what may differ: names, time, and `STREAM_DIFFERENCES`."""
    kept: list[Body] = []
    for chunk in chunks:
        del chunk["id"], chunk["created"]
        (chunk.get("usage") or {}).pop("completion_tokens_details", None)
        delta = chunk["choices"][0]["delta"]
        delta.pop("reasoning", None)
        for call in delta.get("tool_calls", []):
            call.pop("id", None)
        calls = kept and kept[-1]["choices"][0]["delta"].get("tool_calls")
        if calls and "type" not in calls[0] and delta.get("tool_calls"):
            calls[0]["function"]["arguments"] += delta["tool_calls"][0]["function"]["arguments"]
        else:
            kept.append(chunk)
    return kept


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize(("script", "thinks", "reason"), SCRIPTS)
def test_streams_have_one_shape(script: list[str], thinks: bool, reason: str, include_usage: bool) -> None:
    mine = comparable(our_stream(script, thinks, reason, include_usage))
    assert mine == comparable(their_stream(script, thinks, reason, include_usage))


def test_the_document_shows_every_difference() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    listed = [(one.what, one.reason) for one in DIFFERENCES] + list(STREAM_DIFFERENCES.items())
    assert [f"| {what} | {reason} |" for what, reason in listed if f"| {what} | {reason} |" not in page] == []
