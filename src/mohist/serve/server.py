"""From a config to a running server, and its end.

The first SIGTERM or SIGINT drains: requests that run are finished, new ones are refused with 503, and then
the process ends with status 0. A second one ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import closing
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from mohist.errors import ConfigError
from mohist.serve.app import make_app
from mohist.serve.operations import Operations
from mohist.serve.service import Service
from mohist.serve.settings import ServeConfig

__all__ = ["serve"]

_log = logging.getLogger(__name__)


def serve(config: ServeConfig, *, forget_changes: bool = False) -> None:
    """Load the models and serve them until a signal ends it. Raises MohistError.

    `forget_changes`: as the config says, whatever the admin API changed before.
    """
    with closing(Operations(config, forget_changes=forget_changes)) as operations:
        app = make_app(operations.service, operations.access, routers=operations.routers())
        with closing(_bind(config.server.host, config.server.port)) as listener:
            server = Server(app, operations.service, config)
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(_serve(server, operations, listener))


async def _serve(server: Server, operations: Operations, listener: socket.socket) -> None:
    async with operations.running():
        host, port = listener.getsockname()[:2]
        _log.info("serving", extra={"host": host, "port": port, "models": operations.models.names})
        await server.serve(sockets=[listener])


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
