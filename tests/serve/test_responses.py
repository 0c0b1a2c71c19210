"""OpenAI's Responses API over HTTP: items in the order of the answer, the same whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from tests.serve.servers import Running, serving, user
from tests.serve.tiny import babbler, script_llm

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"script": script_llm(), "babbler": babbler()}) as server:
        yield server


def ask(running: Running, given: Any, status: int = 200, **body: Any) -> dict[str, Any]:
    response = running.post("/v1/responses", {"input": given, **body})
    assert response.status_code == status, response.text
    return response.json()


def events(running: Running, given: Any, **body: Any) -> list[dict[str, Any]]:
    """The stream's events: numbered, and named as their data are."""
    asked = {"input": given, "stream": True, **body}
    with running.client.stream("POST", "/responses", json=asked) as response:
        assert response.status_code == 200, response.read()
        lines = [line for line in response.iter_lines() if line]
    found = [json.loads(data.removeprefix("data: ")) for data in lines[1::2]]
    assert [line.removeprefix("event: ") for line in lines[::2]] == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def without_ids(value: Any) -> Any:
    """The same without what is new every time, and without what the cache held."""
    hidden = ("id", "item_id", "created_at", "input_tokens_details")
    if isinstance(value, dict):
        return {name: without_ids(one) for name, one in value.items() if name not in hidden}
    return [without_ids(one) for one in value] if isinstance(value, list) else value


def added_up(stream: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output as a client makes it of deltas alone."""
    items: list[dict[str, Any]] = []
    for event in stream:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif kind == "content_part.added":
            items[event["output_index"]]["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            part = items[event["output_index"]]["content"][event["content_index"]]
            part["text"] += event["delta"]
            if "logprobs" in part:
                part["logprobs"] += event["logprobs"]
        elif kind == "function_call_arguments.delta":
            items[event["output_index"]]["arguments"] += event["delta"]
        elif kind == "output_item.done":
            item = items[event["output_index"]]
            item["status"] = event["item"]["status"]
            assert item == event["item"]
    return items


@pytest.mark.parametrize(
    "text",
    [
        "say Good morning, 墨子!",
        "say <think>\nhm, hm\n</think>\n\nYes.",
        f"say <think>\nweather?\n</think>\n\nI will look. {CALL}\n{CALL.replace('Paris', 'Moscow')}",
        "say",
    ],
)
def test_streams_add_up_to_whole_responses(running: Running, text: str) -> None:
    more: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    if CALL[:8] in text:
        more["tools"] = [WEATHER]
    whole = ask(running, text, **more)
    stream = events(running, text, **more)
    assert without_ids(added_up(stream)) == without_ids(whole["output"])
    assert without_ids(stream[-1]["response"]) == without_ids(whole)
    assert stream[-1]["type"] == "response.completed"
    assert whole["status"] == "completed"
    assert whole["store"] is False


def test_items(running: Running) -> None:
    text = f"say <think>\nweather?\n</think>\n\n{CALL}"
    reply = ask(running, text, tools=[WEATHER])
    thinking, call = reply["output"]
    assert thinking["content"] == [{"type": "reasoning_text", "text": "weather?"}]
    assert (call["name"], json.loads(call["arguments"])) == ("weather", {"city": "Paris"})
    usage = reply["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    history = [user(text), *reply["output"], output, user("say Take an umbrella.")]
    reply = ask(running, history, tools=[WEATHER], instructions="Be kind.")
    assert reply["output"][0]["content"][0]["text"] == "Take an umbrella."


def test_effort_without_levels_is_reported(running: Running) -> None:
    reply = running.post("/v1/responses", {"input": "say hi", "reasoning": {"effort": "low"}})
    assert reply.headers["x-mohist-ignored"] == "reasoning.effort"


def test_a_call_that_is_cut_off(running: Running) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER], "max_output_tokens": 50}
    reply = ask(running, f"say ok {CALL}", **asked)
    call = reply["output"][-1]
    assert call["status"] == reply["status"] == "incomplete"
    assert '{"city": "Paris"}'.startswith(call["arguments"])
    stream = events(running, f"say ok {CALL}", **asked)
    assert without_ids(added_up(stream)) == without_ids(reply["output"])


def test_cut_off(running: Running) -> None:
    reply = ask(running, "say one two three", max_output_tokens=3)
    assert reply["status"] == "incomplete"
    assert reply["incomplete_details"] == {"reason": "max_output_tokens"}
    assert reply["output"][0]["status"] == "incomplete"
    assert events(running, "say one two three", max_output_tokens=3)[-1]["type"] == "response.incomplete"


def test_the_same_answer_as_chat(running: Running) -> None:
    more: dict[str, Any] = {"model": "babbler", "seed": 7, "temperature": 0.9}
    said = ask(running, "hello", max_output_tokens=12, **more)["output"][0]["content"][0]["text"]
    assert said == running.chat("hello", max_tokens=12, **more)["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": []}, "at least one message"),
        ({"input": [{"type": "image_generation_call"}]}, "image_generation_call"),
        ({"previous_response_id": "resp_1"}, "nothing is stored"),
        ({"conversation": "conv_1"}, "nothing is stored"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [WEATHER, WEATHER]}, "unique"),
        ({"tool_choice": "required"}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "function"),
        ({"model": "nothing"}, "nothing"),
    ],
)
def test_mistakes(running: Running, body: dict[str, Any], message: str) -> None:
    reply = ask(running, "say x", 400, **body) if "input" not in body else ask(running, body["input"], 400)
    assert message in reply["error"]["message"]


def test_what_is_ignored_is_named(running: Running) -> None:
    response = running.post("/v1/responses", {"input": "say x", "store": True, "user": "somebody"})
    assert response.headers["x-mohist-ignored"] == "user, store"
