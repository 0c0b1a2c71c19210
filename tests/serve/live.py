"""A whole server in this process: real sockets, a tiny model, a database of its own."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from mohist.serve.app import make_app
from mohist.serve.loading import ModelConfig
from mohist.serve.logs import configure
from mohist.serve.operations import Operations
from mohist.serve.server import Server
from mohist.serve.settings import ServeConfig


@dataclass
class Live:
    """A running server as a test sees it."""

    url: str
    operations: Operations
    client: httpx2.Client
    """Sends no key."""
    loop: asyncio.AbstractEventLoop

    def chat(self, text: str, *, key: str = "", **fields: Any) -> httpx2.Response:
        """One question, answered greedily with at most 8 tokens unless `fields` say otherwise."""
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 8, **fields}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)

    def new_key(self, name: str = "somebody", **fields: Any) -> str:
        """A key that is valid at once."""
        _, key = self.operations.keys.create(name, **fields)
        self.operations.ring.refresh()
        return key


@contextmanager
def live(
    data: Path, models: dict[str, Path], *, further: tuple[ModelConfig, ...] = (), **fields: Any
) -> Generator[Live]:
    """A server of these models on a free port; `fields` are those of `ServeConfig`."""
    plain = (ModelConfig(name=name, source=str(path), threads=1) for name, path in models.items())
    config = ServeConfig(models=(*plain, *further), data=data, **fields)
    operations = Operations(config)
    app = make_app(operations.service, operations.access, routers=operations.routers())
    server = Server(app, operations.service, config)
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with operations.running():
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), name="live server")
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not server.started:
                assert thread.is_alive(), "the server ended at once"
                thread.join(0.01)
            yield Live(url, operations, client, loop)
    finally:
        server.should_exit = True
        thread.join(30)
        operations.close()
        listener.close()
        loop.close()
        assert not thread.is_alive()


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def logged() -> Generator[io.StringIO]:
    """What the server logs inside, as it would on standard error."""
    names = ["mohist", "uvicorn", "uvicorn.access", "asyncio"]
    before = {name: dict(vars(logging.getLogger(name))) for name in names}
    stream = io.StringIO()
    configure(stream)
    try:
        yield stream
    finally:
        for name, state in before.items():
            vars(logging.getLogger(name)).update(state)
