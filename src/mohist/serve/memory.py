"""Which models of this machine are in memory: loaded when they are needed and as the budget allows.

Everything here runs on the event loop; only loading and unloading themselves go to threads, one model at a
time. A model that somebody uses is never unloaded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from mohist.cost import Prices
from mohist.errors import ConfigError, MohistError
from mohist.serve.backend import Backend
from mohist.serve.errors import ApiError, overloaded
from mohist.serve.loading import Loader, ModelConfig

__all__ = ["Entry", "Memory"]

_log = logging.getLogger(__name__)


class Entry:
    """A model's name, and what stands behind it as far as it is loaded."""

    def __init__(
        self, name: str, backend: Backend | None, config: ModelConfig | None, prices: Prices
    ) -> None:
        self.name = name
        self.backend = backend
        self.config = config
        """None for another server's, which is always there."""
        self.prices = prices
        self.adapters = tuple(config.adapter_folders) if config is not None else ()
        self.loading: asyncio.Task[Backend] | None = None
        self.error: str | None = None
        """Why it could not be loaded the last time, if it could not."""
        self.restored = False
        """Whether the admin API brought it before this start."""
        self.coming = False
        """Whether it is being added, and may turn out not to be there."""
        self.users = 0
        self.used_s = 0.0
        self.memory_bytes = 0
        self.unused = asyncio.Event()
        self.unused.set()


@contextmanager
def _noted(entry: Entry) -> Generator[None]:
    """Log why a model cannot be loaded, and show it to operators."""
    try:
        yield
    except ApiError:
        raise  # there is no room now, which says nothing about the model
    except Exception as error:
        known = isinstance(error, MohistError)
        entry.error = str(error) if known else f"{type(error).__name__}: the server's log says where"
        extra = {"model": entry.name, "reason": entry.error}
        _log.error("a model could not be loaded", extra=extra, exc_info=None if known else error)
        raise


class Memory:
    """Has models loaded and unloaded."""

    def __init__(
        self, loader: Loader, *, budget_bytes: int | None, idle_s: float | None, clock: Callable[[], float]
    ) -> None:
        """Loaded models together need at most `budget_bytes`: those unused for longest make room.

        A model unused for `idle_s` is unloaded by `unload_idle`.
        """
        self._loader = loader
        self._budget_bytes = budget_bytes
        self._idle_s = idle_s
        self._clock = clock
        self._loads = asyncio.Lock()
        self._loaded: list[Entry] = []

    async def backend(self, entry: Entry) -> Backend:
        """What answers for an entry, loaded first if need be. Raises ApiError."""
        if entry.backend is not None:
            return entry.backend
        if entry.loading is None:
            entry.loading = asyncio.get_running_loop().create_task(self._load(entry))
            # Its error is told to whoever waits; it may be that nobody does any more.
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        # One who waits may leave; the others still want the model.
        return await asyncio.shield(entry.loading)

    async def load_at_start(self, entry: Entry) -> None:
        """Load what is wanted from the start, unless others would have to make room. Raises MohistError."""
        config = entry.config
        if config is None or not config.at_start:
            return
        with _noted(entry):
            would_unload = await self._would_unload(config)
        if not would_unload:
            await self._bring_in(entry)

    async def unload_idle(self) -> None:
        """Unload what nobody has used for `idle_s`."""
        if self._idle_s is None:
            return
        async with self._loads:
            for entry in list(self._loaded):
                if self._clock() - entry.used_s >= self._idle_s and not entry.users:
                    await self._drop(entry)

    async def unload(self, entry: Entry) -> None:
        """Give back the memory of a model that nobody uses, or the connections to another server."""
        async with self._loads:
            await self._drop(entry)

    async def _load(self, entry: Entry) -> Backend:
        try:
            return await self._bring_in(entry)
        except MohistError as error:
            message = f"the model {entry.name} could not be loaded: the server's log says why"
            raise ApiError(503, message, type="server_error", code="model_not_loaded") from error
        finally:
            entry.loading = None

    async def _bring_in(self, entry: Entry) -> Backend:
        config = entry.config
        assert config is not None, f"{entry.name} is not of this machine"
        async with self._loads:
            start_s = time.monotonic()
            with _noted(entry):
                needed = await asyncio.to_thread(self._loader.memory_bytes, config)
                await self._make_room(entry.name, needed)
                entry.backend = await asyncio.to_thread(self._loader.load, config)
            entry.error = None
            entry.memory_bytes = needed
            self._loaded.append(entry)
            await asyncio.to_thread(self._loader.settle)
        seconds = round(time.monotonic() - start_s, 3)
        _log.info("model loaded", extra={"model": entry.name, "bytes": needed, "seconds": seconds})
        return entry.backend

    async def _would_unload(self, config: ModelConfig) -> bool:
        if self._budget_bytes is None or not self._used_bytes:
            return False
        return (
            self._used_bytes + await asyncio.to_thread(self._loader.memory_bytes, config) > self._budget_bytes
        )

    async def _make_room(self, name: str, needed: int) -> None:
        if self._budget_bytes is None:
            return
        if needed > self._budget_bytes:
            raise ConfigError(
                f"{name} needs {needed:,} bytes, and memory.models_gib allows {self._budget_bytes:,}"
            )
        while self._used_bytes + needed > self._budget_bytes:
            idle = [entry for entry in self._loaded if not entry.users]
            if not idle:
                raise overloaded(f"there is no memory for {name} while other models are in use", 5)
            await self._drop(min(idle, key=lambda entry: entry.used_s))

    async def _drop(self, entry: Entry) -> None:
        """Unload, while nothing else is loaded or unloaded."""
        backend, entry.backend = entry.backend, None
        if backend is not None:
            await backend.close()
            del backend
            # A model is a web of references; its memory should be there for the next one.
            await asyncio.to_thread(self._loader.settle)
            _log.info("model unloaded", extra={"model": entry.name})
        entry.memory_bytes = 0
        if entry in self._loaded:
            self._loaded.remove(entry)

    @property
    def _used_bytes(self) -> int:
        return sum(entry.memory_bytes for entry in self._loaded)
