"""A server that is killed has written down what it had answered, up to the last second."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from mohist.serve.database import Database, usage
from tests.serve.live import wait_for


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_kill_9_loses_no_usage_that_is_older_than_a_second(
    tiny_model: Path, tmp_path: Path, port: int
) -> None:
    """Of a whole server; `test_usage` does the same to its writer alone, with Postgres as well."""
    words = [sys.executable, "-m", "mohist", "serve", f"tiny={tiny_model}", "--server.port", str(port)]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*words, "--data", str(tmp_path)], stderr=log)
    answered: dict[str, tuple[float, int]] = {}
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            wait_for(lambda: live(client), 60)
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            stop_s = time.monotonic() + 2
            while time.monotonic() < stop_s:
                response = client.post("/v1/chat/completions", json=body)
                assert response.status_code == 200
                tokens = response.json()["usage"]["total_tokens"]
                answered[response.headers["x-request-id"]] = (time.monotonic(), tokens)
        killed_s = time.monotonic()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        log.close()
    assert len(answered) > 10
    database = Database.open(tmp_path / "mohist.db")
    with database.reading() as connection:
        rows = connection.execute(usage.select()).all()
    database.close()
    written = {row.request_id: row.prompt_tokens + row.completion_tokens for row in rows}
    old = {id: tokens for id, (at_s, tokens) in answered.items() if at_s < killed_s - 1}
    assert old
    assert {id: written.get(id) for id in old} == old
    assert len(rows) == len(written), "nothing is written twice"
    for line in (tmp_path / "log").read_text().splitlines():
        json.loads(line)


def live(client: httpx2.Client) -> bool:
    try:
        return client.get("/health/live").status_code == 200
    except httpx2.TransportError:
        return False
