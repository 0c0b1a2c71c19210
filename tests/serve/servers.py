"""Servers under test, on a thread of the test's process, and a client for what SDKs hide."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from mohist.llm import LLM
from mohist.serve.access import Access
from mohist.serve.app import make_app
from mohist.serve.loading import Loader, ModelConfig
from mohist.serve.local import LocalModel
from mohist.serve.models import Models
from mohist.serve.server import Server
from mohist.serve.service import Meter, Service
from mohist.serve.settings import LimitsConfig, ServeConfig, ServerConfig


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    url: str
    service: Service
    server: Server
    loop: asyncio.AbstractEventLoop
    client: httpx2.Client

    def post(self, path: str, body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def chat(self, text: str, **body: Any) -> dict[str, Any]:
        """The answer to one question."""
        response = self.post("/v1/chat/completions", {"messages": [user(text)], **body})
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, path: str, body: Mapping[str, Any]) -> list[Any]:
        """The chunks of a streamed answer; the last event must be [DONE]."""
        with self.client.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            events = list(data_of(response.iter_lines()))
        assert events[-1] == "[DONE]"
        return [json.loads(event) for event in events[:-1]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def data_of(lines: Iterator[str]) -> Iterator[str]:
    """The data of server-sent events."""
    for line in lines:
        if line.startswith("data: "):
            yield line.removeprefix("data: ")


@contextmanager
def serving(
    llms: Mapping[str, LLM],
    *,
    limits: LimitsConfig | None = None,
    keep_alive_s: float = 10.0,
    meter: Meter | None = None,
) -> Generator[Running]:
    """Serve these models; the first is also `default`."""
    config = ServeConfig(
        server=ServerConfig(keep_alive_s=keep_alive_s, drain_s=20), limits=limits or LimitsConfig()
    )
    loader = Loader(load=lambda model: LocalModel(model.called, llms[model.source]), memory_bytes=lambda _: 0)
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ready = threading.Event()
    made: list[tuple[Service, Server, asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        models = Models(
            configs=[ModelConfig(source=name, name=name) for name in llms],
            aliases={"default": next(iter(llms))},
            loader=loader,
        )
        service = Service(models, limits=config.limits, keep_alive_s=keep_alive_s, meter=meter)
        server = Server(make_app(service, Access(principal=lambda _: None, required=False)), service, config)
        await models.start()
        made.append((service, server, asyncio.get_running_loop()))
        ready.set()
        try:
            await server.serve(sockets=[listener])
        finally:
            await models.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(30)
    service, server, loop = made[0]
    with closing(httpx2.Client(base_url=url, timeout=30)) as client:
        try:
            yield Running(url, service, server, loop, client)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
