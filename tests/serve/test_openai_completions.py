"""Raw completions over HTTP: continued, filled in, echoed, several at once; and the tokenizer's routes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from mohist.llm import LLM
from mohist.types import Message
from tests.serve.servers import Running, serving, user
from tests.serve.tiny import CONTEXT, babbler, script_llm, tiny_chat


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"babbler": babbler(), "script": script_llm()}) as server:
        yield server


@pytest.fixture(scope="module")
def library() -> LLM:
    return babbler()


def complete(running: Running, **body: Any) -> dict[str, Any]:
    reply = running.post("/v1/completions", body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_texts_are_what_the_library_generates(running: Running, library: LLM) -> None:
    prompts = ["the thin", "another"]
    body = {"prompt": prompts, "n": 2, "seed": 4, "max_tokens": 20, "logprobs": 2}
    whole = complete(running, **body)
    params = library.defaults.replace(seed=4, max_tokens=20)
    answers, _ = library.generate([library.encode(text) for text in prompts], params, num_samples=2, raw=True)
    assert [choice["text"] for choice in whole["choices"]] == [answer.message.content for answer in answers]
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    texts = [""] * 4
    tokens: list[list[str]] = [[] for _ in range(4)]
    offsets: list[list[int]] = [[] for _ in range(4)]
    for chunk in running.stream("/v1/completions", body):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["logprobs"]:
            tokens[choice["index"]] += choice["logprobs"]["tokens"]
            offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert tokens == [choice["logprobs"]["tokens"] for choice in whole["choices"]]
    for text, places, spelled in zip(texts, offsets, tokens, strict=True):
        pairs = [(text[place:], token) for place, token in zip(places, spelled, strict=True)]
        # Where bytes are no character, it shows only with the next token, which then begins there too.
        assert all("\ufffd" in token or rest.startswith((token, "\ufffd")) for rest, token in pairs)
    assert whole["usage"]["completion_tokens"] == sum(len(answer.completion.tokens) for answer in answers)


def test_tokens_may_be_the_prompt(running: Running) -> None:
    tokens = tiny_chat().tokenizer.encode("the thin")
    as_text = complete(running, prompt="the thin", temperature=0)
    as_tokens = complete(running, prompt=tokens, temperature=0)
    several = complete(running, prompt=[tokens, tokens], temperature=0)
    texts = [choice["text"] for reply in (as_text, as_tokens, several) for choice in reply["choices"]]
    assert len(texts) == 4
    assert len(set(texts)) == 1
    assert as_text["usage"]["completion_tokens"] == 16


def test_echo_has_the_scores_of_the_prompt(running: Running, library: LLM) -> None:
    tokens = tiny_chat().tokenizer.encode("the 墨 thin")
    scores = library.engine.score(tokens)
    for max_tokens in (3, 0):
        reply = complete(running, prompt="the 墨 thin", echo=True, logprobs=1, max_tokens=max_tokens, seed=1)
        (choice,) = reply["choices"]
        assert choice["text"].startswith("the 墨 thin")
        assert choice["logprobs"]["token_logprobs"][: len(tokens)] == [None, *scores]
        assert reply["usage"]["completion_tokens"] <= max_tokens
        assert len(choice["logprobs"]["tokens"]) >= len(tokens)
    assert choice["text"] == "the 墨 thin"


def test_echo_has_the_likeliest_tokens_of_the_prompt(running: Running, library: LLM) -> None:
    """Those that an answer would have in the same place."""
    spelled = tiny_chat().tokenizer.token_bytes
    tokens = tiny_chat().tokenizer.encode("the thin")
    asked = {"prompt": "the thin", "echo": True, "max_tokens": 0}
    found = complete(running, logprobs=3, **asked)["choices"][0]["logprobs"]["top_logprobs"]
    assert found[0] is None
    for place, top in enumerate(found[1:], 1):
        params = library.defaults.replace(max_tokens=1, top_logprobs=3)
        (completion,) = library.engine.generate([tokens[:place]], params)
        expected: dict[str, float] = {}
        for token, logprob in completion.top_logprobs[0]:
            expected.setdefault(spelled(token).decode("utf-8", "replace"), logprob)
        assert top == expected
    assert complete(running, logprobs=0, **asked)["choices"][0]["logprobs"]["top_logprobs"] == [None] * len(
        tokens
    )


def test_filling_in(running: Running) -> None:
    reply = complete(running, model="script", prompt="before say ", suffix="after", max_tokens=3)
    tokenizer = tiny_chat().tokenizer
    marks = [tokenizer.token(f"<|fim_{name}|>") for name in ("prefix", "suffix", "middle")]
    count = len([*marks, *tokenizer.encode("before say "), *tokenizer.encode("after")])
    assert reply["usage"]["prompt_tokens"] == count
    refused = running.post("/v1/completions", {"prompt": [1, 2], "suffix": "after"})
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, "no tokens"),
        ({"prompt": []}, "0 prompts"),
        ({"prompt": ["a"] * 65}, "65 prompts"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "logprobs": 21}, "valid range of logprobs"),
        ({"prompt": [999_999]}, "outside the vocabulary"),
        ({"prompt": "x" * 2000}, f"takes at most {CONTEXT} tokens"),
        ({"prompt": "a", "best_of": 2}, "best_of is not available"),
        ({"prompt": "a", "suffix": "b", "echo": True}, "exclude each other"),
        ({"prompt": "a", "min_p": 2}, "min_p"),
        ({"prompt": "a", "top_k": -1}, "top_k"),
    ],
)
def test_what_is_wrong_is_said(running: Running, body: dict[str, Any], message: str) -> None:
    for stream in (False, True):
        reply = running.post("/v1/completions", {**body, "stream": stream})
        assert reply.status_code == 400
        assert message in reply.json()["error"]["message"]


def test_one_wrong_prompt_of_several_ends_them_all(running: Running) -> None:
    reply = running.post("/v1/completions", {"prompt": ["fine", ""], "max_tokens": 1000})
    assert reply.status_code == 400
    assert running.service.num_requests == 0


def test_tokens(running: Running, library: LLM) -> None:
    text = "the 墨 <|im_end|>"
    expected = tiny_chat().tokenizer.prompt(text)
    for body in ({"prompt": text}, {"content": text}):
        reply = running.post("/tokenize", {**body, "return_token_strs": True}).json()
        assert reply["tokens"] == expected
        assert reply["count"] == len(expected)
        assert reply["max_model_len"] == CONTEXT
        assert len(reply["token_strs"]) == len(expected)
    assert running.post("/v1/detokenize", {"tokens": expected}).json() == {"prompt": text}
    conversation = {"messages": [user("hi")], "thinking": {"type": "enabled"}}
    tokens = library.render([Message(role="user", content="hi")], True)
    assert running.post("/v1/tokenize", conversation).json()["tokens"] == tokens
    counted = running.post("/count_tokens", conversation).json()
    assert counted == {"count": len(tokens), "max_model_len": CONTEXT}
    for body in ({}, {"prompt": "a", "content": "b"}, {"messages": []}):
        assert running.post("/tokenize", body).status_code == 400
    assert running.post("/detokenize", {"tokens": [10**9]}).status_code == 400


def test_models(running: Running) -> None:
    listed = running.client.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == ["default", "babbler", "script"]
    assert listed["data"][0]["alias_of"] == "babbler"
    assert listed["data"][1]["context_length"] == CONTEXT
    assert listed["data"][1]["thinking"] == "switch"
    assert running.client.get("/models/script").json()["id"] == "script"
    assert running.client.get("/models/nothing").status_code == 404
    assert running.client.get("/nothing").json()["error"]["type"] == "invalid_request_error"
    assert running.client.get("/v1/chat/completions").status_code == 405
