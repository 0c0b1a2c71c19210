"""Chat completions over HTTP: what a model says arrives, whole and in chunks, in its right parts."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from mohist.llm import LLM
from mohist.serve.settings import LimitsConfig
from mohist.types import Message
from tests.serve.servers import Running, serving, user
from tests.serve.tiny import CONTEXT, ScriptRunner, babbler, script_llm, tiny_chat

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALL_MOSCOW = CALL.replace("Paris", "Moscow")


@pytest.fixture(scope="module")
def script() -> LLM:
    return script_llm()


@pytest.fixture(scope="module")
def babble() -> LLM:
    return babbler()


@pytest.fixture(scope="module")
def running(script: LLM, babble: LLM) -> Generator[Running]:
    with serving({"script": script, "babbler": babble}) as server:
        yield server


def message(reply: dict[str, Any], choice: int = 0) -> dict[str, Any]:
    return reply["choices"][choice]["message"]


def folded(chunks: list[dict[str, Any]], n: int = 1) -> list[dict[str, Any]]:
    """What a client makes of chunks."""
    choices: list[dict[str, Any]] = [
        {"content": "", "reasoning_content": "", "calls": [], "logprobs": [], "reason": None}
        for _ in range(n)
    ]
    for chunk in chunks:
        for entry in chunk["choices"]:
            choice, delta = choices[entry["index"]], entry["delta"]
            for name in ("content", "reasoning_content"):
                choice[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", []):
                if call["index"] == len(choice["calls"]):
                    choice["calls"].append({"id": call["id"], **call["function"]})
                else:
                    choice["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
            choice["logprobs"] += (entry["logprobs"] or {}).get("content", [])
            choice["reason"] = entry["finish_reason"] or choice["reason"]
    return choices


def test_an_answer(running: Running) -> None:
    reply = running.chat("say Good morning, 墨子!")
    assert message(reply) == {"role": "assistant", "content": "Good morning, 墨子!"}
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "script"
    count = len(tiny_chat().tokenizer.encode("Good morning, 墨子!")) + 1
    usage = reply["usage"]
    assert usage["completion_tokens"] == count
    assert usage["total_tokens"] == usage["prompt_tokens"] + count
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]


def test_thinking_is_apart_and_counted(running: Running) -> None:
    text = "say well...\n</think>\n\nyes"
    for switch in (
        {"thinking": {"type": "enabled"}},
        {"chat_template_kwargs": {"enable_thinking": True}},
    ):
        reply = running.chat(text, **switch)
        assert message(reply)["reasoning_content"] == message(reply)["reasoning"] == "well..."
        assert message(reply)["content"] == "yes"
        thought = len(tiny_chat().tokenizer.encode("well...\n</think>"))
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == thought
    for switch in ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}):
        assert message(running.chat("say hm</think>yes", **switch))["content"] == "hm</think>yes"


def test_a_stream_begins_ends_and_adds_up_as_a_whole_answer_does(running: Running) -> None:
    body = {
        "messages": [user("say well...\n</think>\n\nyes, 墨\n")],
        "thinking": {"type": "enabled"},
        "logprobs": True,
        "n": 2,
    }
    whole = running.post("/v1/chat/completions", body).json()
    chunks = running.stream("/v1/chat/completions", body)
    assert chunks[0]["choices"][0]["delta"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "",
        "reasoning": "",
    }
    assert chunks[-1]["usage"] == whole["usage"] | cached(chunks[-1]["usage"])
    assert all("usage" not in chunk for chunk in chunks[:-1])
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice, entry in zip(folded(chunks, 2), whole["choices"], strict=True):
        assert choice["content"] == entry["message"]["content"]
        assert choice["reasoning_content"] == entry["message"]["reasoning_content"]
        assert choice["logprobs"] == entry["logprobs"]["content"]
        assert choice["reason"] == entry["finish_reason"]


def cached(usage: dict[str, Any]) -> dict[str, Any]:
    """What may differ between two equal requests: the second finds more in the cache."""
    names = ("prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "prompt_tokens_details")
    return {name: usage[name] for name in names}


def test_usage_in_every_chunk_where_it_is_asked_for(running: Running) -> None:
    chunks = running.stream(
        "/v1/chat/completions", {"messages": [user("say hi")], "stream_options": {"include_usage": True}}
    )
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


def test_streams_and_whole_answers_are_what_the_library_generates(running: Running, babble: LLM) -> None:
    messages = [user("hello")]
    prompt = babble.render([Message(role="user", content="hello")])
    for seed in range(3):
        body = {
            "model": "babbler",
            "messages": messages,
            "seed": seed,
            "max_tokens": 40,
            "n": 2,
            "logprobs": True,
        }
        whole = running.post("/v1/chat/completions", body).json()
        streamed = folded(running.stream("/v1/chat/completions", body), 2)
        params = babble.defaults.replace(seed=seed, max_tokens=40)
        with_library = LLM.generate(babbler(), [prompt], params, num_samples=2)[0]
        for i, answer in enumerate(with_library):
            assert message(whole, i)["content"] == answer.message.content
            assert streamed[i]["content"] == answer.message.content
            logprobs = {entry["logprob"] for entry in whole["choices"][i]["logprobs"]["content"]}
            assert logprobs <= set(answer.completion.logprobs)
            assert streamed[i]["logprobs"] == whole["choices"][i]["logprobs"]["content"]


def test_logprobs_spell_the_answer(running: Running) -> None:
    for stop in (None, "hin"):
        reply = running.chat("say the 墨 thinner", logprobs=True, top_logprobs=2, stop=stop)
        tokens = reply["choices"][0]["logprobs"]["content"]
        spelled = b"".join(bytes(token["bytes"]) for token in tokens).decode()
        assert message(reply)["content"] == "the 墨 thinner"[: None if stop is None else 7]
        # A stop string may begin within a token, which then is the last one.
        assert spelled == ("the 墨 thinner" if stop is None else "the 墨 th")
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)


@pytest.mark.parametrize("stop", ["in the", ["zzz", "e mi"], "y", ["e middle", "middle"]])
def test_stop_strings_across_the_borders_of_tokens(running: Running, stop: Any) -> None:
    text = "it is in the middle of it"
    stops = [stop] if isinstance(stop, str) else stop
    cut = min((text.find(one) for one in stops if one in text), default=len(text))
    body = {"messages": [user(f"say {text}")], "stop": stop, "logprobs": True}
    whole = running.post("/v1/chat/completions", body).json()
    (streamed,) = folded(running.stream("/v1/chat/completions", body))
    assert message(whole)["content"] == streamed["content"] == text[:cut]
    assert streamed["logprobs"] == whole["choices"][0]["logprobs"]["content"]
    assert whole["choices"][0]["finish_reason"] == "stop"
    tokens = tiny_chat().tokenizer.encode(text)
    needed = next(
        (n for n in range(len(tokens)) if any(s in tiny_chat().tokenizer.decode(tokens[:n]) for s in stops)),
        len(tokens) + 1,
    )
    assert whole["usage"]["completion_tokens"] == needed


def test_max_tokens_cuts_and_says_so(running: Running) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = running.chat("say abcdef", **{name: 3})
        assert message(reply)["content"] == "abc"
        assert reply["choices"][0]["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens"] == 3


def test_tools(running: Running) -> None:
    body = {"messages": [user(f"say ok\n{CALL}\n{CALL_MOSCOW}")], "tools": [WEATHER]}
    whole = running.post("/v1/chat/completions", body).json()
    calls = message(whole)["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == ['{"city": "Paris"}', '{"city": "Moscow"}']
    assert message(whole)["content"] == "ok"
    assert whole["choices"][0]["finish_reason"] == "tool_calls"
    (streamed,) = folded(running.stream("/v1/chat/completions", body))
    assert streamed["calls"] == [{"id": call["id"], **call["function"]} for call in calls]
    assert streamed["reason"] == "tool_calls"
    assert len({call["id"] for call in calls}) == 2


def test_arguments_stream_as_they_are_written(running: Running) -> None:
    city = "Saint Petersburg"
    body = {"messages": [user("say " + CALL.replace("Paris", city))], "tools": [WEATHER]}
    chunks = running.stream("/v1/chat/completions", body)
    deltas = [chunk["choices"][0]["delta"].get("tool_calls", [None])[0] for chunk in chunks]
    calls = [delta for delta in deltas if delta is not None]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert len(calls) > 10
    assert "".join(call["function"]["arguments"] for call in calls) == f'{{"city": "{city}"}}'
    whole = running.post("/v1/chat/completions", body).json()
    assert folded(chunks)[0]["calls"] == [
        {"id": call["id"], **call["function"]} for call in message(whole)["tool_calls"]
    ]


def test_one_call_is_enough(running: Running) -> None:
    body = {"messages": [user(f"say ok {CALL}\n{CALL_MOSCOW} bye")], "tools": [WEATHER], "seed": 1}
    for more in ({}, {"parallel_tool_calls": False}):
        whole = running.post("/v1/chat/completions", body | more).json()
        streamed = folded(running.stream("/v1/chat/completions", body | more))[0]
        calls = [call["function"]["arguments"] for call in message(whole)["tool_calls"]]
        assert calls == [call["arguments"] for call in streamed["calls"]]
        assert calls == ['{"city": "Paris"}', '{"city": "Moscow"}'][: 1 if more else 2]
        assert message(whole)["content"].strip() == ("ok" if more else "ok  bye")
        assert whole["choices"][0]["finish_reason"] == streamed["reason"] == "tool_calls"
        written = f"ok {CALL}\n{CALL_MOSCOW} bye"
        end = written.index('"}') + 2 if more else len(written)
        tokens = len(tiny_chat().tokenizer.encode(written[:end])) + (0 if more else 1)
        assert whole["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("/v1/messages", {"output_config": {"effort": "low"}, "max_tokens": 9}, "output_config.effort"),
        ("/v1/messages/count_tokens", {"output_config": {"effort": "max"}}, "output_config.effort"),
    ],
)
def test_effort_without_levels_is_reported(
    running: Running, path: str, body: dict[str, Any], field: str
) -> None:
    reply = running.post(path, {"messages": [user("say hi")], **body})
    assert reply.headers["x-mohist-ignored"] == field
    more = {name: value for name, value in body.items() if name == "max_tokens"}
    plain = running.post(path, {"messages": [user("say hi")], **more})
    assert "x-mohist-ignored" not in plain.headers


def test_a_call_that_is_cut_off(running: Running) -> None:
    body = {"messages": [user(f"say ok {CALL}")], "tools": [WEATHER], "max_tokens": 50}
    whole = running.post("/v1/chat/completions", body).json()
    (call,) = message(whole)["tool_calls"]
    assert '{"city": "Paris"}'.startswith(call["function"]["arguments"])
    assert message(whole)["content"].strip() == "ok"
    assert whole["choices"][0]["finish_reason"] == "length"
    streamed = folded(running.stream("/v1/chat/completions", body))[0]
    assert streamed["calls"] == [{"id": call["id"], **call["function"]}]
    assert streamed["reason"] == "length"


def test_the_results_of_tools_go_back_to_the_model(running: Running) -> None:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    messages = [
        user("how is it?"),
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "look"},
        {"role": "tool", "tool_call_id": "call_1", "content": "say sunny"},
    ]
    for name in ("reasoning_content", "reasoning"):
        given = [dict(one) for one in messages]
        given[1][name] = given[1].pop("reasoning_content")
        reply = running.post("/v1/chat/completions", {"messages": given, "tools": [WEATHER]})
        assert message(reply.json())["content"] == "sunny"


@pytest.mark.parametrize("choice", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
def test_without_tools_what_looks_like_a_call_is_text(running: Running, choice: dict[str, Any]) -> None:
    reply = running.chat(f"say {CALL}", **choice)
    assert message(reply) == {"role": "assistant", "content": CALL}
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_an_answer_that_was_begun(running: Running, babble: LLM) -> None:
    messages = [user("hello"), {"role": "assistant", "content": "the th", "prefix": True}]
    body = {"model": "babbler", "messages": messages, "temperature": 0, "max_tokens": 8}
    reply = running.post("/beta/chat/completions", body).json()
    start = babble.render([Message(role="user", content="hello")])
    prompt = [*start, *tiny_chat().tokenizer.encode("the th")]
    params = babble.defaults.replace(temperature=0, max_tokens=8)
    (answer,) = babbler().generate([prompt], params)[0]
    assert message(reply)["content"] == answer.message.content
    assert reply["usage"]["prompt_tokens"] == len(prompt)


def test_prompts_that_do_not_fit_are_refused_with_their_size(running: Running, script: LLM) -> None:
    body = {"messages": [user("x" * 2000)]}
    reply = running.post("/v1/chat/completions", body)
    count = len(script.render([Message(role="user", content="x" * 2000)]))
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert f"has {count} tokens" in error["message"]
    assert f"at most {CONTEXT} tokens" in error["message"]
    assert f"by at least {count - CONTEXT + 1} tokens" in error["message"]


def test_what_has_no_effect_is_reported(running: Running) -> None:
    reply = running.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "say hi", "mood": "fine"}],
            "store": True,
            "thinking": {"type": "adaptive", "depth": 3},
            "ünknown": 1,
        },
    )
    assert reply.headers["x-mohist-ignored"] == "store, messages.mood, thinking.depth, and 1 more"
    for name in ("", " ", " mood", "mood "):  # a header cannot say them
        odd = running.post("/v1/chat/completions", {"messages": [user("say hi")], name: 1})
        assert odd.status_code == 200
        assert odd.headers["x-mohist-ignored"] == "and 1 more"
    assert (
        "x-mohist-ignored" not in running.post("/v1/chat/completions", {"messages": [user("say hi")]}).headers
    )


@pytest.mark.parametrize(
    "body",
    [
        {"functions": [{"name": "f"}]},
        {"logit_bias": {"5": 10}},
    ],
)
def test_what_would_change_the_answer_is_refused(running: Running, body: dict[str, Any]) -> None:
    reply = running.post("/v1/chat/completions", {"messages": [user("say hi")], **body})
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "not_available"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b"[" * 100_000, 400),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b'{"model": "\\ud800", "messages": [{"role": "user", "content": "hi"}]}', 400),
        (b'{"messages": ' + b"9" * 5000 + b"}", 400),
        (b'{"temperature": NaN, "messages": [{"role": "user", "content": "hi"}]}', 400),
        (b"[]", 400),
        (b"", 400),
    ],
)
def test_bodies_that_are_no_requests(running: Running, content: bytes, status: int) -> None:
    reply = running.client.post(
        "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
    )
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["type"] == "invalid_request_error"


def runner_of(llm: LLM) -> ScriptRunner:
    runner = llm.engine._runner
    assert isinstance(runner, ScriptRunner)
    return runner


def wait_until(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def test_comments_keep_a_queued_stream_alive() -> None:
    llm = script_llm()
    runner_of(llm).gate.clear()
    with serving({"script": llm}, keep_alive_s=0.05) as server:
        body = {"messages": [user("say hi")], "stream": True}
        with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            first = [next(lines) for _ in range(8)]
            assert first[0].startswith("data: ")
            assert ": keep-alive" in first
            runner_of(llm).gate.set()
            assert any(line == "data: [DONE]" for line in lines)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_costs_nothing_more(stream: bool) -> None:
    llm = script_llm()
    runner = runner_of(llm)
    runner.step_s = 0.01
    with serving({"script": llm}) as server:
        body = {"messages": [user("say " + "a" * 500)], "stream": stream}
        with (
            pytest.raises(TimeoutError) if stream else pytest.raises(Exception, match="timed out"),
            server.client.stream("POST", "/v1/chat/completions", json=body, timeout=0.3) as response,
        ):
            for i, _ in enumerate(response.iter_lines()):
                if i == 10:
                    raise TimeoutError
        wait_until(lambda: server.service.num_requests == 0)
        wait_until(lambda: llm.engine.stats().running == 0)
        drawn = runner.num_drawn
        time.sleep(0.1)
        assert runner.num_drawn == drawn < 100


def test_too_many_requests_are_told_when_to_come_back() -> None:
    llm = script_llm()
    runner_of(llm).gate.clear()
    with serving({"script": llm}, limits=LimitsConfig(max_requests=2)) as server:
        body = {"messages": [user("say hi")]}
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(server.post("/v1/chat/completions", body).status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.service.num_requests == 2)
        refused = server.post("/v1/chat/completions", body)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        runner_of(llm).gate.set()
        for thread in threads:
            thread.join()
        assert statuses == [200, 200]


def test_draining_finishes_what_runs_and_refuses_what_comes() -> None:
    llm = script_llm()
    runner_of(llm).step_s = 0.02
    with serving({"script": llm}) as server:
        body = {"messages": [user("say " + "ab " * 10)]}
        replies: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: replies.append(server.chat("say " + "ab " * 10)))
        thread.start()
        wait_until(lambda: server.service.num_requests == 1)
        server.server.handle_exit(15, None)
        wait_until(lambda: server.service.draining)
        refused = server.post("/v1/chat/completions", body)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        thread.join()
        assert message(replies[0])["content"] == "ab " * 10
        wait_until(lambda: server.server.should_exit)


def test_a_step_that_fails_once_is_repeated_and_twice_ends_its_requests() -> None:
    llm = script_llm()
    with serving({"script": llm}) as server:
        runner_of(llm).fails = 1
        assert message(server.chat("say hi"))["content"] == "hi"
        runner_of(llm).fails = 2
        failed = server.post("/v1/chat/completions", {"messages": [user("say hi")]})
        assert failed.status_code == 500
        assert failed.json()["error"]["type"] == "server_error"
        assert message(server.chat("say hi"))["content"] == "hi"
