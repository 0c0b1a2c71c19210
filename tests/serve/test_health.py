"""Ready means that tokens are decoded, and nothing less."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mohist.engine.engine import Engine, Event
from mohist.engine.runner import DecoderRunner
from mohist.engine.sequence import Chunk, Outcome
from mohist.serve.health import Readiness
from mohist.serve.local import LocalModel
from mohist.serve.settings import ServerConfig
from tests.serve.live import Live, live, wait_for


def readiness(server: Live) -> tuple[int, dict[str, str]]:
    response = server.client.get("/health/ready")
    return response.status_code, response.json()["problems"]


def problems(server: Live, fresh: Readiness) -> dict[str, str]:
    return asyncio.run_coroutine_threadsafe(fresh.problems(), server.loop).result(20)


def test_a_server_is_live_and_ready(server: Live) -> None:
    assert server.client.get("/health/live").json() == {"status": "live"}
    assert server.client.get("/health/ready").json() == {"status": "ready", "problems": {}}


def test_an_idle_engine_is_asked_for_a_token_now_and_then(server: Live) -> None:
    (backend,) = server.operations.models.loaded.values()
    assert isinstance(backend, LocalModel)
    fresh = Readiness(server.operations.service, stuck_s=60)

    before = backend.worker.stats.generated_tokens
    assert problems(server, fresh) == {}
    assert backend.worker.stats.generated_tokens == before + 1
    assert problems(server, fresh) == {}
    assert backend.worker.stats.generated_tokens == before + 1, "one token is proof for a while"


def test_a_stuck_engine_is_not_ready_and_recovers(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that does not end: live stays true, ready turns false, and afterwards nothing is lost."""
    with live(tmp_path, {"tiny": tiny_model}, server=ServerConfig(stuck_s=0.5)) as server:
        expected = server.chat("hello").json()["choices"]
        go_on, real = threading.Event(), DecoderRunner.run

        def stuck(self: DecoderRunner, chunks: list[Chunk]) -> list[Outcome]:
            assert go_on.wait(30)
            return real(self, chunks)

        monkeypatch.setattr(DecoderRunner, "run", stuck)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.chat, "hello")
            wait_for(lambda: readiness(server)[0] == 503)
            assert readiness(server)[1]["tiny"].startswith("no step has ended for ")
            assert server.client.get("/health/live").status_code == 200
            go_on.set()
            assert answer.result().json()["choices"] == expected
        wait_for(lambda: readiness(server) == (200, {}))


def test_an_engine_that_is_idle_and_dead_is_not_ready(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes requests, its loop turns, but no token comes: what a mere liveness check misses."""
    fresh = Readiness(server.operations.service, stuck_s=60, patience_s=0.3)
    waiting = threading.Event()

    real = Engine.step

    def nothing(self: Engine) -> list[Event]:
        waiting.set()
        time.sleep(0.01)
        return []

    monkeypatch.setattr(Engine, "step", nothing)
    for _ in range(3):
        assert problems(server, fresh) == {"tiny": "no token was decoded within 0.3 s"}
    assert waiting.is_set()
    (backend,) = server.operations.models.loaded.values()
    assert isinstance(backend, LocalModel)
    assert backend.worker.call(lambda engine: len(engine._loop.unfinished)).result(10) == 1, (
        "probes do not gather"
    )
    monkeypatch.setattr(Engine, "step", real)
    wait_for(lambda: problems(server, fresh) == {})


def test_an_engine_at_work_that_computes_nothing_is_not_ready(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps end, one after the other, and the request that runs gets nothing."""
    fresh = Readiness(server.operations.service, stuck_s=0.3, patience_s=0.3)
    stepping = threading.Event()
    real = Engine.step

    def nothing(self: Engine) -> list[Event]:
        stepping.set()
        time.sleep(0.01)
        return []

    monkeypatch.setattr(Engine, "step", nothing)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.chat, "hello")
        assert stepping.wait(10)
        try:
            wait_for(lambda: bool(problems(server, fresh)))
        finally:
            monkeypatch.setattr(Engine, "step", real)
        assert answer.result().status_code == 200
    wait_for(lambda: problems(server, fresh) == {})


def test_an_engine_that_fails_on_every_token_is_not_ready(
    server: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Readiness(server.operations.service, stuck_s=60)

    def fail(self: DecoderRunner, chunks: Any) -> Any:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(DecoderRunner, "run", fail)
        assert problems(server, fresh) == {"tiny": "decoding a token failed"}
    assert problems(server, fresh) == {}


def test_a_draining_server_is_not_ready(tiny_model: Path, tmp_path: Path) -> None:
    with live(tmp_path, {"tiny": tiny_model}) as server:
        server.operations.service.draining = True
        assert readiness(server) == (503, {"server": "is about to end"})
        refused = server.chat("hi")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
