"""Anthropic's own Python client, and OpenAI's for responses, unpatched, on SmolLM2 and on a script."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from mohist.llm import LLM
from tests.serve.servers import Running, serving
from tests.serve.test_tour_openai import load
from tests.serve.tiny import script_llm

pytestmark = [pytest.mark.real_model, pytest.mark.parity]
anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

QUESTION: Any = [{"role": "user", "content": "Name three primary colors."}]
WEATHER: Any = {
    "name": "weather",
    "description": "How the weather is in a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
GREEDY = {"temperature": 0}
"""The newest client knows no temperature, but passes it on."""
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def llm() -> LLM:
    return load()


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"smollm2": load(), "script": script_llm()}) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Generator[Any]:
    with anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def openai_client(running: Running) -> Generator[Any]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def greedy(llm: LLM, messages: Any, max_tokens: int) -> str:
    prompt = llm.chat.render(messages)
    (answer,) = llm.generate([prompt], llm.defaults.replace(max_tokens=max_tokens, temperature=0))[0]
    return answer.message.content


def test_messages_are_the_library(client: Any, llm: LLM) -> None:
    """The stream, the whole message and what the library generates are the same."""
    wanted = {"model": "smollm2", "messages": QUESTION, "max_tokens": 12, "extra_body": GREEDY}
    whole = client.messages.create(**wanted)
    with client.messages.stream(**wanted) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text == greedy(llm, QUESTION, 12)
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 12
    counted = client.messages.count_tokens(model="smollm2", messages=QUESTION).input_tokens
    assert counted == final.usage.input_tokens + final.usage.cache_read_input_tokens


def test_stop_sequences(client: Any) -> None:
    wanted = {"model": "smollm2", "messages": QUESTION, "max_tokens": 40, "extra_body": GREEDY}
    whole = client.messages.create(**wanted).content[0].text
    stop = whole[10:14]
    cut = client.messages.create(**wanted, stop_sequences=[stop])
    assert cut.content[0].text == whole[: whole.index(stop)]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)


def test_thinking_and_tools(client: Any) -> None:
    asked = {"role": "user", "content": f"say <think>\nweather?\n</think>\n\nI look. {CALL}"}
    wanted = {"model": "script", "max_tokens": 100, "tools": [WEATHER]}
    with client.messages.stream(messages=[asked], **wanted) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_message()
    assert {"thinking", "text", "input_json", "message_stop"} <= kinds
    thinking, text, call = final.content
    assert thinking.thinking == "weather?"
    assert text.text.strip() == "I look."
    assert (call.name, call.input, final.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    history = [
        asked,
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": [result, {"type": "text", "text": "say Take an umbrella."}]},
    ]
    assert client.messages.create(messages=history, **wanted).content[0].text == "Take an umbrella."


def test_errors(client: Any) -> None:
    with pytest.raises(anthropic.BadRequestError, match="model names"):
        client.messages.create(model="nothing", messages=QUESTION, max_tokens=1)
    long = [{"role": "user", "content": "word " * 20_000}]
    with pytest.raises(anthropic.BadRequestError, match="tokens"):
        client.messages.create(model="smollm2", messages=long, max_tokens=1)


def test_responses(openai_client: Any, llm: LLM) -> None:
    wanted = {
        "model": "smollm2",
        "input": "Name three primary colors.",
        "max_output_tokens": 12,
        "temperature": 0,
    }
    whole = openai_client.responses.create(**wanted)
    assert whole.output_text == greedy(llm, QUESTION, 12)
    assert whole.status == "incomplete"
    assert whole.usage.output_tokens == 12
    with openai_client.responses.stream(**wanted) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == whole.output_text
    with pytest.raises(openai.BadRequestError, match="nothing is stored"):
        openai_client.responses.create(**wanted, previous_response_id="resp_1")


def test_responses_with_tools(openai_client: Any) -> None:
    tool = {"type": "function", "name": "weather", "parameters": WEATHER["input_schema"], "strict": False}
    asked = {"role": "user", "content": f"say <think>\nweather?\n</think>\n\n{CALL}"}
    first = openai_client.responses.create(model="script", input=[asked], tools=[tool])
    thinking, call = first.output
    assert thinking.content[0].text == "weather?"
    assert (call.name, call.arguments) == ("weather", '{"city": "Paris"}')
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    more = {"role": "user", "content": "say Take an umbrella."}
    history = [asked, *(item.model_dump() for item in first.output), output, more]
    second = openai_client.responses.create(model="script", input=history, tools=[tool])
    assert second.output_text == "Take an umbrella."
