"""Whatever raises while one request is answered ends that request alone, and tells nobody what it said."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest

from mohist.chat.chat import Chat
from mohist.chat.stream import StreamParser
from mohist.chat.tokenizer import Tokenizer
from mohist.engine.engine import Engine
from mohist.engine.runner import DecoderRunner
from mohist.engine.sequence import Chunk
from mohist.serve import local, openai_shape, prompt
from mohist.serve.dialects import openai_chat
from mohist.serve.local import LocalModel
from mohist.serve.metering import Metering
from mohist.serve.openai_body import ChatBody
from mohist.serve.settings import LimitsConfig
from mohist.serve.text import ChoiceText
from mohist.types import Request
from tests.serve.live import Live, logged, wait_for

POISON = "zyxw"
"""In the prompt of the request that is to fail, and in the message of what it raises."""

GOOD = ["hello", "what is a monad?", "tell me about the sea, please", "你好"]

PLACES: dict[str, tuple[Any, str]] = {
    "validator": (openai_chat, "check_chat"),
    "ask": (openai_chat, "chat_ask"),
    "preparation": (local, "prepare"),
    "room": (prompt, "check_room"),
    "template": (Chat, "render"),
    "tokenizer": (Tokenizer, "encode"),
    "parser made": (Chat, "stream"),
    "parser": (StreamParser, "push"),
    "parser's end": (StreamParser, "finish"),
    "text": (ChoiceText, "push"),
    "text's end": (ChoiceText, "finish"),
    "submission": (Engine, "submit"),
    "step": (DecoderRunner, "run"),
    "sampler": (DecoderRunner, "sample_rows"),
    "meter's door": (Metering, "enter"),
    "meter": (Metering, "progress"),
    "usage": (Metering, "record"),
    "whole answer": (openai_chat, "chat_completion"),
    "chunks": (openai_shape.ChatChunks, "of"),
    "first chunk": (openai_shape.ChatChunks, "first"),
}


ONLY_STREAM = {"chunks", "first chunk"}
ONCE_STARTED = ONLY_STREAM | {
    "parser",
    "parser's end",
    "text",
    "text's end",
    "step",
    "sampler",
    "meter",
    "usage",
}
"""Where a stream has begun when it fails, so that the error comes as an event of it."""

asked: ContextVar[str] = ContextVar("asked", default="")
"""What the request says that the running task or thread works for."""


class Fault(Exception):
    pass


def poisoned(args: tuple[Any, ...], poison: tuple[int, ...]) -> bool:
    """Whether a call is for the request with the poison: by its context, or by its tokens there."""
    prompts = [arg.prompt for arg in args if isinstance(arg, Request)]
    chunks = [
        chunk
        for arg in args
        for chunk in (arg if isinstance(arg, list) else [arg])
        if isinstance(chunk, Chunk)
    ]
    prompts += [chunk.sequence.prompt for chunk in chunks]
    texts = [" ".join(map(str, prompt)) for prompt in prompts]
    return POISON in asked.get() or any(" ".join(map(str, poison)) in text for text in texts)


@pytest.fixture
def trap(server: Live, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Sets a trap in one place; returns a list of the times that it was sprung."""
    (backend,) = server.operations.models.loaded.values()
    assert isinstance(backend, LocalModel)
    poison = tuple(backend.llm.chat.tokenizer.encode(POISON))

    def trapped(place: str, sprung: list[str]) -> Callable[..., Any]:
        real = getattr(*PLACES[place])

        def call(*args: Any, **kwargs: Any) -> Any:
            if poisoned(args, poison):
                sprung.append(place)
                raise Fault(f"a message that quotes {POISON}")
            return real(*args, **kwargs)

        return call

    def set_trap(place: str) -> list[str]:
        sprung: list[str] = []
        monkeypatch.setattr(*PLACES[place], trapped(place, sprung))
        checked = openai_chat.check_chat

        def check(body: ChatBody, limits: LimitsConfig) -> None:
            asked.set(str(body.messages[-1].content))
            checked(body, limits)

        monkeypatch.setattr(openai_chat, "check_chat", check)
        return sprung

    return set_trap


@pytest.fixture
def log() -> Generator[io.StringIO]:
    with logged() as stream:
        yield stream


def ask(server: Live, text: str, *, stream: bool) -> tuple[int, str]:
    """Status, and the answer's text; of an error, its message."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 16,
        "stream": stream,
    }
    response = server.client.post("/v1/chat/completions", json=body)
    if not stream or response.status_code != 200:
        data = response.json()
        return response.status_code, data["error"]["message"] if "error" in data else content(data, "message")
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    if "error" in chunks[-1]:
        assert events[-1] != "[DONE]", "a stream that failed does not end as if it had not"
        return 500, chunks[-1]["error"]["message"]
    assert events[-1] == "[DONE]"
    return 200, "".join(content(chunk, "delta") for chunk in chunks)


def content(data: dict[str, Any], kind: str) -> str:
    return data["choices"][0][kind].get("content") or ""


@pytest.mark.parametrize(
    ("place", "stream"),
    [
        *((place, False) for place in PLACES if place not in ONLY_STREAM),
        *((place, True) for place in PLACES if place in ONCE_STARTED),
    ],
)
def test_a_fault_ends_its_own_request_alone(
    server: Live, trap: Callable[[str], list[str]], log: io.StringIO, place: str, stream: bool
) -> None:
    expected = [(200, ask(server, text, stream=stream)[1]) for text in GOOD]
    sprung = trap(place)
    with ThreadPoolExecutor(len(GOOD) + 1) as pool:
        bad = pool.submit(ask, server, f"{POISON} " * 3, stream=stream)
        good = [pool.submit(ask, server, text, stream=stream) for text in GOOD]
        status, message = bad.result()
        assert [future.result() for future in good] == expected
    assert sprung
    assert status == 500
    assert message in (
        "the server failed on this request; it was logged",
        "the engine failed on this request; it was logged",
    )
    assert_at_rest(server)
    assert ask(server, GOOD[0], stream=stream) == expected[0]
    assert server.client.get("/health/ready").json() == {"status": "ready", "problems": {}}
    logged = log.getvalue()
    assert ".Fault" in logged
    assert not [text for text in [POISON, *GOOD] if text in logged]


def assert_at_rest(server: Live) -> None:
    """Nothing runs, waits or holds a block of the cache any more."""
    wait_for(lambda: server.operations.service.num_requests == 0)
    (backend,) = server.operations.models.loaded.values()
    assert isinstance(backend, LocalModel)

    def held(engine: Engine) -> int:
        engine.check()
        stats = engine.stats()
        return stats.running + stats.waiting + stats.blocks_used

    wait_for(lambda: backend.worker.call(held).result(10) == 0)
