"""Answers that must have a form, over HTTP: what comes has it, whatever random weights would say."""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import Any

import pytest

from tests.serve.servers import Running, serving, user
from tests.serve.tiny import babbler, script_llm, tiny_chat

pytest.importorskip("llguidance")

SCHEMA = {
    "type": "object",
    "properties": {
        "color": {"enum": ["red", "green"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["color", "count"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}
    for name in ("paint", "count")
]
BODY: dict[str, Any] = {"model": "babbler", "messages": [user("Answer in JSON.")], "max_tokens": 200}


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"babbler": babbler(), "script": script_llm()}) as server:
        yield server


def answers(running: Running, **more: Any) -> Generator[dict[str, Any]]:
    """Choices of a few seeds, each of which a stream gives too."""
    for seed in range(4):
        body = {**BODY, "seed": seed, **more}
        reply = running.post("/v1/chat/completions", body)
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        chunks = running.stream("/v1/chat/completions", body)
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        assert text == (choice["message"]["content"] or "")
        yield choice


def check(value: Any) -> None:
    assert set(value) == {"color", "count"}
    assert value["color"] in ("red", "green")
    assert value["count"] in range(100)


def test_a_schema(running: Running) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    for choice in answers(running, response_format=format):
        check(json.loads(choice["message"]["content"]))
        assert choice["finish_reason"] == "stop"


def test_a_pattern(running: Running) -> None:
    format = {"type": "regex", "regex": "(yes|no), [0-9]{3}"}
    for choice in answers(running, response_format=format):
        assert re.fullmatch("(yes|no), [0-9]{3}", choice["message"]["content"])


def test_the_form_is_that_of_what_follows_thinking(running: Running) -> None:
    format = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    thinking = {"type": "enabled", "budget_tokens": 20}
    for choice in answers(running, response_format=format, thinking=thinking):
        check(json.loads(choice["message"]["content"]))
        assert choice["message"]["reasoning_content"]


def test_thinking_ends_when_its_budget_is_used_up(running: Running) -> None:
    closing = len(tiny_chat().tokenizer.encode(tiny_chat().format.early_stop))
    for budget in (5, 20):
        thinking = {"type": "enabled", "budget_tokens": budget}
        body = {**BODY, "seed": 1, "max_tokens": 400, "thinking": thinking}
        reply = running.post("/v1/chat/completions", body).json()
        used = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
        assert used <= budget + closing < 400
        assert reply["choices"][0]["message"]["reasoning_content"]
        assert reply["usage"]["completion_tokens"] > used


@pytest.mark.parametrize("named", [False, True])
def test_calls_that_are_demanded(running: Running, named: bool) -> None:
    choice: Any = {"type": "function", "function": {"name": "count"}} if named else "required"
    for answer in answers(running, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False):
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] in (["count"] if named else ["paint", "count"])
        check(json.loads(call["function"]["arguments"]))
        assert answer["finish_reason"] == "tool_calls"
        assert answer["message"]["content"] is None


def test_what_cannot_have_its_form_is_an_error_and_no_answer(running: Running) -> None:
    """The scripted model says what it likes, whatever is allowed."""
    body = {
        **BODY,
        "model": "script",
        "messages": [user("JSON, please: say no")],
        "response_format": {"type": "json_object"},
    }
    reply = running.post("/v1/chat/completions", body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "form_failed"
    with running.client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "form_failed"


@pytest.mark.parametrize(
    "format",
    [
        {"type": "regex", "regex": "(" * 50},
        {"type": "regex", "regex": "a" * 10_000},
        {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}},
    ],
)
def test_forms_that_cannot_be_used(running: Running, format: dict[str, Any]) -> None:
    reply = running.post("/v1/chat/completions", {**BODY, "response_format": format})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "form_not_available"


def test_an_answer_that_was_begun_has_no_form(running: Running) -> None:
    begun = {"role": "assistant", "content": "{", "prefix": True}
    body = {
        **BODY,
        "messages": [*BODY["messages"], begun],
        "response_format": {"type": "regex", "regex": "a"},
    }
    reply = running.post("/beta/chat/completions", body)
    assert reply.status_code == 400
    assert "was begun already" in reply.json()["error"]["message"]
