"""Another server behind a name: by a scripted one for what can go wrong, and by Mohist itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.answer import Answer, Piece, Started, ToolCallPiece, Usage, whole
from mohist.serve.ask import Ask, Shape, Tool
from mohist.serve.errors import ApiError
from mohist.serve.upstream import Upstream, UpstreamConfig
from mohist.serve.upstream_calls import UpstreamCalls
from mohist.serve.upstream_wire import Reader
from mohist.serve.usage import report
from mohist.types import Message, ToolCall
from tests.serve.live import Live, live, wait_for

ASK = Ask(
    model="remote", messages=(Message(role="user", content="hi"),), sampling={"seed": 3, "max_tokens": 9}
)


class Body(httpx2.AsyncByteStream):
    """A body in pieces of 7 bytes, so that no line arrives whole."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self.data, self.error = data, error
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), 7):
            yield self.data[start : start + 7]
        if self.error is not None:
            raise self.error

    async def aclose(self) -> None:
        self.closed = True


class Script(httpx2.AsyncBaseTransport):
    """Answers every request with the same response, and keeps the requests."""

    def __init__(self, status: int, body: bytes, error: Exception | None = None, **headers: str) -> None:
        self.status, self.body, self.headers = status, Body(body, error), headers
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        return httpx2.Response(self.status, headers=headers, stream=self.body)


def sse(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f": ping\n\ndata: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks) + end).encode()


def chunk(delta: dict[str, Any], reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": reason}], **more}


USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def answer(script: Script, ask: Ask = ASK, **options: Any) -> Answer:
    async def run() -> Answer:
        config = UpstreamConfig(name="remote", url="http://up.example/v1", model="big", **options)
        upstream = Upstream(config, transport=script)
        events = upstream.answer(ask, salt=b"")
        try:
            started = await anext(events)
            assert isinstance(started, Started)
            return await whole(events, started, ask.n)
        finally:
            await events.aclose()
            await upstream.close()

    return asyncio.run(run())


def failure(script: Script, ask: Ask = ASK, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        answer(script, ask, **options)
    return caught.value


def test_a_stream_is_passed_on() -> None:
    call = {"index": 0, "id": "c1", "function": {"name": "get", "arguments": ""}}
    logprob = {
        "token": "yo",
        "logprob": -0.5,
        "bytes": [121, 111],
        "top_logprobs": [{"token": "y", "logprob": -1.0}],
    }
    second = chunk({"content": "yo", "reasoning_content": None})
    second["choices"][0]["logprobs"] = {"content": [logprob]}
    script = Script(
        200,
        sse(
            chunk({"role": "assistant", "content": None, "reasoning_content": ""}, system_fingerprint="fp_1"),
            chunk({"reasoning_content": "hm"}),
            second,
            chunk({"tool_calls": [call]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
            chunk({"content": ""}, "tool_calls"),
            {"choices": [], "usage": USAGE},
        ),
    )
    found = answer(script, prices=Prices())
    (choice,) = found.choices
    assert (found.started.model, found.started.fingerprint, found.started.seed) == ("remote", "fp_1", 3)
    assert (choice.reasoning, choice.content) == ("hm", "yo")
    assert choice.tool_calls == [ToolCall(name="get", arguments='{"a":1}', id="c1")]
    assert [(info.data, info.logprob, info.top) for info in choice.content_tokens] == [
        (b"yo", -0.5, ((b"y", -1.0),))
    ]
    assert choice.finished is not None
    assert choice.finished.reason == "tool_calls"
    assert found.usage == Usage(prompt_tokens=11, cached_tokens=4, completion_tokens=7, reasoning_tokens=2)
    assert script.body.closed


def pieces(*pushed: tuple[int, str, str] | str, complete: bool = True) -> list[tuple[Any, ...]]:
    """What is given out for pieces of calls (number, name, arguments) and of text."""
    calls = UpstreamCalls(0)
    events: list[Any] = []
    for one in pushed:
        if isinstance(one, str):
            events += calls.text(Piece(0, "content", one))
        else:
            events += calls.push(one[0], ToolCall(name=one[1], arguments=one[2], id=f"c{one[0]}"))
    events += calls.finish(complete=complete)
    return [
        (one.text,)
        if isinstance(one, Piece)
        else (one.index, one.begins and one.begins.id, one.text, one.complete)
        for one in events
    ]


def test_calls_are_passed_on_piece_by_piece() -> None:
    assert pieces((0, "get", ""), (0, "", '{"a'), (0, "", '":1}'), (1, "put", "{"), (1, "", "}")) == [
        (0, "c0", '{"a', False),
        (0, None, '":1}', False),
        (0, None, "", True),
        (1, "c1", "{", False),
        (1, None, "}", False),
        (1, None, "", True),
    ]


def test_a_piece_of_a_call_does_not_wait_for_the_next() -> None:
    reader = Reader("remote", ASK)
    call = {"index": 0, "id": "c1", "function": {"name": "get", "arguments": '{"a'}}
    started, piece = reader.push(json.dumps(chunk({"tool_calls": [call]})).encode())
    assert isinstance(started, Started)
    begins = ToolCall(name="get", arguments="", id="c1")
    assert piece == ToolCallPiece(choice=0, index=0, text='{"a', begins=begins, num_tokens=1)


def test_calls_in_turns_wait_for_one_another() -> None:
    given = pieces((0, "get", "{"), (2, "c", "{}"), (1, "b", "{"), "well", (0, "", "} "), (1, "", "}"))
    assert given == [
        (0, "c0", "{", False),
        (0, None, "} ", False),
        (0, None, "", True),
        ("well",),
        (1, "c1", "{}", False),
        (1, None, "", True),
        (2, "c2", "{}", False),
        (2, None, "", True),
    ]


def test_text_after_a_whole_call_ends_it() -> None:
    assert pieces("a", (7, "get", "{}"), "b") == [("a",), (0, "c7", "{}", False), (0, None, "", True), ("b",)]


def test_a_call_that_is_cut_off_is_not_complete() -> None:
    assert pieces((0, "a", "{}"), (1, "b", "{"), complete=False)[-3:] == [
        (0, None, "", True),
        (1, "c1", "{", False),
        (1, None, "", False),
    ]
    assert pieces((0, "a", ""), complete=False) == [(0, "c0", "", False), (0, None, "", False)]


def test_nothing_follows_a_call_that_was_over() -> None:
    assert pieces((0, "a", "{}"), (1, "b", "{}"), (0, "", " "))[-1] == (1, None, "", True)
    with pytest.raises(ValueError, match="that was over"):
        pieces((0, "a", "{}"), (1, "b", "{}"), (0, "", "{}"))
    call = [{"index": i, "function": {"name": "f", "arguments": "{}"}} for i in (0, 1, 0)]
    assert failure(Script(200, sse(chunk({"tool_calls": call})))).status == 502


def test_a_whole_answer_is_passed_on() -> None:
    message = {"role": "assistant", "content": "yo", "reasoning": "hm"}
    data = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": USAGE}
    script = Script(200, json.dumps(data).encode())
    found = answer(script, streams=False)
    assert (found.choices[0].reasoning, found.choices[0].content) == ("hm", "yo")
    assert found.choices[0].finished is not None
    assert found.choices[0].finished.reason == "length"
    assert found.usage.completion_tokens == 7
    assert "stream" not in json.loads(script.requests[0].content)


def test_several_choices_and_raw_text() -> None:
    texts = [{"choices": [{"index": i, "text": f"<{i}>", "finish_reason": "stop"}]} for i in (1, 0)]
    script = Script(200, sse(*texts, {"choices": [], "usage": USAGE}))
    ask = Ask(model="remote", prompt="once", suffix="end", n=2, stop=("x",))
    found = answer(script, ask)
    assert [choice.content for choice in found.choices] == ["<0>", "<1>"]
    assert found.usage.prompt_tokens == 11
    (request,) = script.requests
    assert str(request.url) == "http://up.example/v1/completions"
    assert json.loads(request.content) == {
        "model": "big",
        "n": 2,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "prompt": "once",
        "suffix": "end",
    }


def test_the_whole_ask_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP_KEY", "sk-up")
    script = Script(200, sse(chunk({"content": "x"}, "stop")))
    ask = Ask(
        model="remote",
        messages=(
            Message(role="user", content="hi"),
            Message(
                role="assistant", reasoning="hm", tool_calls=(ToolCall(name="get", arguments="{}", id="c"),)
            ),
            Message(role="tool", content="5", tool_call_id="c", name="get"),
            Message(role="assistant", content="It"),
        ),
        continues=True,
        tools=(Tool(name="get", description="gets", parameters={"type": "object"}, strict=True),),
        tool_choice="required",
        tool_name="get",
        parallel_tool_calls=False,
        thinking=False,
        effort="high",
        sampling={"temperature": 0.5},
        shape=Shape(kind="json_schema", schema={"type": "object"}),
        top_logprobs=2,
    )
    answer(script, ask, key_env="UP_KEY", streams=True)
    (request,) = script.requests
    assert request.headers["authorization"] == "Bearer sk-up"
    body = json.loads(request.content)
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert body["messages"][1]["reasoning_content"] == "hm"
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "get", "arguments": "{}"}
    assert body["messages"][2] == {"role": "tool", "content": "5", "tool_call_id": "c", "name": "get"}
    assert body["messages"][3]["prefix"] is True
    function = {"name": "get", "description": "gets", "parameters": {"type": "object"}, "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get"}}
    rest = {name: body[name] for name in sorted(body.keys() - {"messages", "tools", "tool_choice", "model"})}
    assert rest == {
        "logprobs": True,
        "parallel_tool_calls": False,
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}},
        },
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "thinking": {"type": "disabled"},
        "top_logprobs": 2,
    }


@pytest.mark.parametrize(
    ("status", "body", "expected", "message"),
    [
        (400, b'{"error":{"message":"bad field"}}', 400, "refused the request: bad field"),
        (422, b'{"error":"worse"}', 422, "refused the request: worse"),
        (400, b"<html>", 400, "it does not say why"),
        (401, b'{"error":{"message":"key sk-up is wrong"}}', 502, "answered with status 401"),
        (402, b"", 502, "answered with status 402"),
        (404, b"", 502, "answered with status 404"),
        (302, b"", 502, "answered with status 302"),
        (500, b"", 502, "answered with status 500"),
        (429, b"", 429, "is busy: try again"),
        (503, b"", 503, "is busy: try again"),
    ],
)
def test_refusals(status: int, body: bytes, expected: int, message: str) -> None:
    script = Script(status, body, location="http://127.0.0.1/admin", retry_after="17")
    error = failure(script)
    assert (error.status, error.code) == (expected, "upstream")
    assert message in error.message
    assert "sk-up" not in error.message
    assert error.retry_after_s == (17 if expected in (429, 503) else None)
    assert len(script.requests) == 1, "redirects are not followed"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (sse(chunk({"content": "half"}), end=""), "broke off in the middle"),
        (sse(chunk({"content": "half"})), "broke off in the middle"),
        (sse(), "broke off in the middle"),
        (sse("text"), "sent what is no chat completion"),
        (b"data: {not json\n\n", "sent what is no chat completion"),
        (sse({"choices": [{"delta": {"content": 5}}]}), "sent what is no chat completion"),
        (sse(chunk({"content": "x"}), {"error": {"message": "secret"}}), "reported an error"),
        (sse(chunk({"content": "x"}, index=1)), "sent a choice that was not asked for"),
        (sse(chunk({"content": "x"}, index=-1)), "sent a choice that was not asked for"),
        (
            sse(chunk({}, "insufficient_system_resource")),
            "gave up on its answer: insufficient_system_resource",
        ),
    ],
)
def test_answers_that_are_none(body: bytes, message: str) -> None:
    error = failure(Script(200, body))
    assert error.status == 502
    assert message in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (httpx2.ReadTimeout("slow"), 504),
        (httpx2.ReadError("reset"), 502),
        (httpx2.ConnectError("refused"), 502),
    ],
)
def test_connections_that_fail(error: Exception, status: int) -> None:
    assert failure(Script(200, sse(chunk({"content": "x"}), end=""), error)).status == status


def test_what_cannot_be_passed_on_is_refused() -> None:
    script = Script(200, b"")
    error = failure(script, Ask(model="remote", messages=ASK.messages, thinking_budget=5))
    assert (error.status, script.requests) == (400, [])


def test_an_event_without_end_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    from mohist.serve import upstream

    monkeypatch.setattr(upstream, "MOST_BYTES", 1000)
    assert failure(Script(200, b"data: " + b"x" * 5000)).status == 502
    assert failure(Script(200, b"x" * 5000), streams=False).status == 502


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://host/v1"}, r"expected http\(s\)://HOST"),
        ({"url": "host"}, r"expected http\(s\)://HOST"),
        ({"url": "http://host/v1?key=1"}, r"expected http\(s\)://HOST"),
        ({"url": "https://me:pw@host/"}, "a key in it shows in logs"),
        ({"timeout_s": 0.0}, "timeout_s = 0"),
        ({"key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY holds no key"),
    ],
)
def test_configs_are_checked(fields: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"name": "remote", "url": "http://host", "model": "m"} | fields
    with pytest.raises(ConfigError, match=message) as caught:
        Upstream(UpstreamConfig(**given))
    assert "pw" not in str(caught.value)


def test_mohist_behind_mohist_gives_the_same_answer_and_meters_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live(tmp_path / "back", {"tiny": tiny_model}) as back:
        monkeypatch.setenv("BACK_KEY", back.new_key())
        prices = Prices(
            currency="CNY", prompt_per_million=2.0, cached_per_million=0.5, completion_per_million=8.0
        )
        remote = UpstreamConfig(
            name="far", url=f"{back.url}/v1", model="tiny", key_env="BACK_KEY", prices=prices
        )
        with live(tmp_path / "front", {}, upstreams=(remote,)) as front:
            for stream in (False, True):
                fields: dict[str, Any] = {
                    "max_tokens": 20,
                    "temperature": 1,
                    "seed": 5,
                    "n": 2,
                    "stream": stream,
                }
                direct, passed = back.chat("hello", **fields), front.chat("hello", model="far", **fields)
                assert passed.status_code == 200
                assert texts(passed.text, stream) == texts(direct.text, stream)
            usage = back.chat("hello").json()["usage"]
            assert front.chat("hello", model="default").json()["usage"] == usage
            database = front.operations.database
            wait_for(lambda: sum(one.choices for one in report(database)) == 5)
            (total,) = report(database, by=())
            assert total.currency == "CNY"
            assert total.prompt_tokens == 3 * usage["prompt_tokens"]
            computed = total.prompt_tokens - total.cached_tokens
            assert (
                total.cost_nano
                == computed * 2000 + total.cached_tokens * 500 + total.completion_tokens * 8000
            )
            assert total.cached_tokens > 0
            assert_no_receipt_is_told(front)


def assert_no_receipt_is_told(front: Live) -> None:
    """In every dialect, whole and streamed: the answer comes, and its header says what is not there."""
    messages = [{"role": "user", "content": "hello"}]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": messages, "max_tokens": 3},
        "/v1/completions": {"prompt": "hello", "max_tokens": 3},
        "/v1/messages": {"messages": messages, "max_tokens": 3},
        "/v1/responses": {"input": "hello", "max_output_tokens": 3},
    }
    for path, body in bodies.items():
        for stream in (False, True):
            wanted = {"model": "far", "receipt": True, "stream": stream, **body}
            response = front.client.post(path, json=wanted)
            assert response.status_code == 200, response.text
            assert response.headers["x-mohist-ignored"] == "receipt"
            assert '"receipt"' not in response.text
    quiet = front.chat("hello", model="far", receipt=False)
    assert "x-mohist-ignored" not in quiet.headers


def texts(body: str, stream: bool) -> list[str]:
    """What each choice says."""
    if not stream:
        return [choice["message"]["content"] for choice in json.loads(body)["choices"]]
    said: dict[int, str] = {}
    for line in body.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
    return [said[i] for i in sorted(said)]
