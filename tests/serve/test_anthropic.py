"""Anthropic's dialect over HTTP: blocks in the order of the answer, the same whole and streamed."""

from __future__ import annotations

import copy
import json
from collections.abc import Generator
from typing import Any

import pytest
from pydantic_core import from_json

from tests.serve.servers import Running, serving, user
from tests.serve.tiny import CONTEXT, babbler, script_llm, tiny_chat

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"script": script_llm(), "babbler": babbler()}) as server:
        yield server


def ask(running: Running, text: str, status: int = 200, **body: Any) -> dict[str, Any]:
    response = running.post("/v1/messages", {"messages": [user(text)], "max_tokens": 100, **body})
    assert response.status_code == status, response.text
    return response.json()


def said(block: dict[str, Any]) -> dict[str, Any]:
    """A message of the user with one block."""
    return {"role": "user", "content": [block]}


def events(running: Running, text: str, **body: Any) -> list[dict[str, Any]]:
    """The stream's events; each must be named as its data is."""
    asked = {"messages": [user(text)], "max_tokens": 100, "stream": True, **body}
    with running.client.stream("POST", "/anthropic/v1/messages", json=asked) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line]
    assert len(lines) % 2 == 0
    found = []
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def added_up(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The message as a client that knows only the protocol makes it."""
    assert stream[0]["type"] == "message_start"
    assert stream[-1]["type"] == "message_stop"
    message = copy.deepcopy(stream[0]["message"])
    is_open = False
    for event in stream[1:-1]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                block, delta = message["content"][event["index"]], dict(event["delta"])
                kind = delta.pop("type")
                name, text = delta.popitem()
                expected = {"text": "text", "thinking": "thinking", "signature": "signature"}
                assert kind == f"{expected.get(name, 'input_json')}_delta"
                target = "json" if name == "partial_json" else name
                block[target] += text
            case "content_block_stop":
                assert is_open
                block = message["content"][event["index"]]
                written = block.pop("json")
                if block["type"] == "tool_use":
                    block["input"] = json.loads(written)
                is_open = False
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"]}
            case other:
                assert other == "ping"
    assert not is_open
    return message


@pytest.mark.parametrize(
    "text",
    [
        "say Good morning, 墨子!",
        "say <think>\nhm, hm\n</think>\n\nYes.",
        f"say I will look. {CALL}",
        f"say <think>\nweather?\n</think>\n\n{CALL}\n{CALL.replace('Paris', 'Moscow')}",
        "say",
    ],
)
def test_streams_add_up_to_whole_messages(running: Running, text: str) -> None:
    tools = [WEATHER] if CALL[:8] in text else None
    whole = ask(running, text, tools=tools)
    streamed = added_up(events(running, text, tools=tools))
    for one in (whole, streamed):
        assert one.pop("id").startswith("msg_")
        # Which of the two came first decides what the cache held.
        usage = one.pop("usage")
        assert usage["cache_creation_input_tokens"] == 0
        one["input"] = usage["input_tokens"] + usage["cache_read_input_tokens"]
        one["output"] = usage["output_tokens"]
    assert streamed == whole
    assert whole["type"] == "message"
    assert whole["model"] == "script"


def test_a_call_that_is_cut_off(running: Running) -> None:
    """Its input is what the official client makes of the pieces: as much as is certain."""
    text = f"say ok {CALL}"
    for most in (46, 50, 56):
        whole = ask(running, text, tools=[WEATHER], max_tokens=most)
        assert whole["stop_reason"] == "max_tokens"
        deltas = [event.get("delta", {}) for event in events(running, text, tools=[WEATHER], max_tokens=most)]
        written = "".join(delta.get("partial_json", "") for delta in deltas)
        assert '{"city": "Paris"}'.startswith(written)
        block = whole["content"][-1]
        assert block["type"] == "tool_use"
        assert block["input"] == (from_json(written, allow_partial=True) if written else {})


def test_blocks(running: Running) -> None:
    text = f"say <think>\nweather?\n</think>\n\nI will look. {CALL}"
    reply = ask(running, text, tools=[WEATHER])
    thinking, said, call = reply["content"]
    assert thinking["type"] == "thinking"
    assert thinking["thinking"] == "weather?"
    assert thinking["signature"]
    assert said["type"] == "text"
    assert said["text"].strip() == "I will look."
    assert call == {"type": "tool_use", "id": call["id"], "name": "weather", "input": {"city": "Paris"}}
    assert reply["stop_reason"] == "tool_use"
    answered = [
        user(text),
        {"role": "assistant", "content": reply["content"]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": call["id"],
                    "content": [{"type": "text", "text": "rain"}],
                },
                {"type": "text", "text": "say Take an umbrella."},
            ],
        },
    ]
    reply = ask(running, "", messages=answered, tools=[WEATHER])
    assert reply["content"] == [{"type": "text", "text": "Take an umbrella."}]
    assert reply["stop_reason"] == "end_turn"


def test_why_it_ended(running: Running) -> None:
    reply = ask(running, "say one two three", stop_sequences=["two", "three"])
    assert reply["content"] == [{"type": "text", "text": "one "}]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "two")
    reply = ask(running, "say one two three", max_tokens=3)
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("max_tokens", None)
    assert reply["usage"]["output_tokens"] == 3


def test_system_and_beginnings(running: Running) -> None:
    """They are in the prompt: counted, and told apart from what the user says."""
    plain = ask(running, "say x")["usage"]
    longer = ask(running, "say x", system=[{"type": "text", "text": "Be brief."}])["usage"]
    total = [usage["input_tokens"] + usage["cache_read_input_tokens"] for usage in (plain, longer)]
    system = tiny_chat().render([{"role": "system", "content": "Be brief."}], add_generation_prompt=False)
    assert total[1] - total[0] == len(system)
    body = {"messages": [user("say x")], "system": "Be brief."}
    counted = running.post("/v1/messages/count_tokens", body)
    assert counted.json() == {"input_tokens": total[1]}
    begun = [user("go"), {"role": "assistant", "content": "Once upon"}]
    reply = ask(running, "", model="babbler", messages=begun, seed=3, max_tokens=5)
    again = ask(running, "", model="babbler", messages=begun, seed=3, max_tokens=5)
    assert reply["content"] == again["content"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "system", "content": "x"}]}, "role"),
        ({"temperature": 3}, "temperature"),
        ({"stop_sequences": [""]}, r"stop_sequences[0] has 0 characters"),
        ({"stop_sequences": ["x"] * 17}, "at most 16"),
        ({"tools": [WEATHER, WEATHER]}, "unique"),
        ({"tool_choice": {"type": "tool", "name": "nothing"}, "tools": [WEATHER]}, "nothing"),
        ({"tool_choice": {"type": "any"}}, "tools"),
        ({"messages": [said({"type": "tool_use", "id": "1", "name": "x", "input": {}})]}, "assistant"),
        ({"messages": [said({"type": "image", "source": {}})]}, "image"),
        ({"messages": [user("a" * (2 * CONTEXT))]}, "tokens"),
        ({"model": "nothing"}, "nothing"),
    ],
)
def test_mistakes(running: Running, body: dict[str, Any], message: str) -> None:
    reply = ask(running, "say x", 400, **body)
    assert reply["type"] == "error"
    assert reply["error"]["type"] == "invalid_request_error"
    assert message in reply["error"]["message"]


def test_what_is_ignored_is_named(running: Running) -> None:
    body = {
        "messages": [user("say x")],
        "max_tokens": 5,
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
    }
    response = running.post("/v1/messages", body)
    assert response.headers["x-mohist-ignored"] == "metadata, service_tier"
