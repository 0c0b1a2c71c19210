"""The command itself, as a process: load, hostile requests, and its end by a signal."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx2
import pytest

from tests.serve.tiny import save_babbler
from tools import serve_load


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_babbler(tmp_path_factory.mktemp("models") / "babbler"))


def test_ten_seconds_of_load(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers and statuses; what a busy machine does to memory and latency is for the long run by hand."""
    monkeypatch.setattr(serve_load, "GROWTH", 1.5)
    monkeypatch.setattr(serve_load, "LIVE_P99_S", 5.0)

    async def run() -> serve_load.Seen:
        async with serve_load.server(model, "--server.keep_alive_s", "0.5") as (url, process):
            return await serve_load.load(url, process.pid, clients=16, attackers=2, seconds=10, seed=1)

    seen = asyncio.run(run())
    found = serve_load.report(seen)
    assert found["failures"] == []
    assert found["complete"] > 20
    assert found["left"] > 5
    assert found["hostile"]["400"] > 5


def test_a_signal_under_load_loses_nothing_that_was_accepted(model: str) -> None:
    async def run() -> None:
        async with serve_load.server(model) as (url, process):
            limits = httpx2.Limits(max_connections=None)
            async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
                body = serve_load.user("hello", seed=1, max_tokens=400, temperature=1.0, stop=["never"])
                alone = await serve_load.streamed(client, body)
                streams = [asyncio.create_task(serve_load.streamed(client, body)) for _ in range(8)]
                wholes = [
                    asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(8)
                ]
                while (await client.get("/admin/models")).text.count('"requests":16') != 1:
                    assert not all(task.done() for task in streams)
                process.send_signal(signal.SIGTERM)
                for _ in range(100):
                    refused = await client.post("/v1/chat/completions", json=body | {"max_tokens": 1})
                    if refused.status_code == 503:
                        break
                assert refused.status_code == 503
                assert int(refused.headers["retry-after"]) >= 1
                assert await asyncio.gather(*streams) == [alone] * 8
                for reply in await asyncio.gather(*wholes):
                    assert reply.status_code == 200
                    assert json.loads(reply.text)["choices"][0]["message"]["content"] == alone
            assert await asyncio.to_thread(process.wait, 30) == 0

    asyncio.run(run())


def test_two_models_cannot_have_one_name(model: str, tmp_path: Path) -> None:
    from mohist.cli.main import main

    options = ["--data", str(tmp_path), "--server.port", "0"]
    assert main(["serve", f"a={model}", f"a={model}", *options]) == 2
    assert main(["serve", model, "--server.host", "0.0.0.0", *options]) == 2
