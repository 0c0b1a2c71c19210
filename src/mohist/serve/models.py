"""The models of a server: by name, behind aliases, loaded when they are needed and as memory allows.

A request takes a *lease*: the name is looked up once, in that moment, and the request ends on the model that
it began with. An alias is switched by replacing the whole table of aliases in one assignment, so that every
request sees either the old table or the new one. What is leased is never unloaded.

Everything here runs on the event loop; only loading and unloading themselves go to threads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from mohist.cost import Prices
from mohist.errors import ConfigError, MohistError
from mohist.serve.backend import Backend
from mohist.serve.errors import ApiError, invalid, overloaded
from mohist.serve.loading import LOADER, Loader, ModelConfig
from mohist.serve.upstream import Upstream

__all__ = ["ModelState", "Models"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """A model at this moment, for operators."""

    name: str
    state: Literal["loaded", "loading", "not loaded", "leaving"]
    requests: int
    """That use it or wait for it."""
    idle_s: float
    """Since the last request ended."""
    memory_bytes: int
    """Weights and cache; 0 while it is not loaded, or for another server's."""
    source: str
    aliases: tuple[str, ...]


class _Entry:
    """A name, and what stands behind it as far as it is loaded."""

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
        self.users = 0
        self.used_s = 0.0
        self.memory_bytes = 0
        self.unused = asyncio.Event()
        self.unused.set()


class Models:
    """All models of a server."""

    def __init__(
        self,
        *,
        configs: Iterable[ModelConfig] = (),
        upstreams: Iterable[Upstream] = (),
        aliases: Mapping[str, str] | None = None,
        loader: Loader = LOADER,
        budget_bytes: int | None = None,
        idle_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Models of this machine, which are loaded when they are asked for, and those of other servers.

        Loaded models together need at most `budget_bytes`: those unused for longest make room. A model
        unused for `idle_s` is unloaded by `unload_idle`. Raises ConfigError: names or aliases that clash.
        """
        self._loader = loader
        self._budget_bytes = budget_bytes
        self._idle_s = idle_s
        self._clock = clock
        self._loads = asyncio.Lock()
        self._entries: dict[str, _Entry] = {}
        self._leaving: list[_Entry] = []
        """Models that no new request finds, while their last requests end."""
        self._aliases: Mapping[str, str] = {}
        for config in configs:
            self._add(_Entry(config.called, None, config, config.prices))
        for upstream in upstreams:
            self._add(_Entry(upstream.name, upstream, None, upstream.prices))
        self._aliases = self._checked(aliases or {})

    @property
    def names(self) -> list[str]:
        """All names that may be asked for: aliases first."""
        adapted = [f"{one.name}:{adapter}" for one in self._entries.values() for adapter in one.adapters]
        return [*self._aliases, *self._entries, *adapted]

    def adapter(self, name: str) -> str | None:
        """The adapter that a name or alias asks for beside its model; None: the model as it is."""
        return self._find(name)[1]

    @property
    def aliases(self) -> Mapping[str, str]:
        """What every alias stands for."""
        return self._aliases

    @property
    def loaded(self) -> dict[str, Backend]:
        """What is in memory, by name."""
        return {name: entry.backend for name, entry in self._entries.items() if entry.backend is not None}

    def states(self) -> list[ModelState]:
        """Every model at this moment."""
        return [self._state(entry) for entry in self._all()]

    def prices(self, name: str) -> Prices:
        """Of a model that is there or about to leave."""
        names = (name, name.rpartition(":")[0])
        return next(entry.prices for entry in reversed(self._all()) if entry.name in names)

    def state(self, name: str) -> ModelState:
        """One model at this moment."""
        return self._state(self._entries[name])

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncGenerator[Backend]:
        """The model behind a name or alias, for one request; loaded first if need be. Raises ApiError."""
        entry, _ = self._find(name)
        if entry is None:
            names = ", ".join(self.names)
            message = f"The supported API model names are {names}, but you passed {name}."
            raise invalid(message, "model", "model_not_found")
        entry.users += 1
        entry.unused.clear()
        try:
            yield await self._backend(entry)
        finally:
            entry.users -= 1
            entry.used_s = self._clock()
            if not entry.users:
                entry.unused.set()

    def _find(self, name: str) -> tuple[_Entry | None, str | None]:
        """The model behind a name or alias, and the adapter that it names; None for what is unknown."""
        target = self._aliases.get(name, name)
        if target in self._entries:
            return self._entries[target], None
        model, _, adapter = target.rpartition(":")
        entry = self._entries.get(model)
        return (entry, adapter) if entry is not None and adapter in entry.adapters else (None, None)

    async def start(self) -> None:
        """Load what is wanted at the start, as far as memory allows. Raises MohistError."""
        for entry in list(self._entries.values()):
            config = entry.config
            if config is not None and config.at_start and not await self._would_unload(config):
                await self._bring_in(entry)

    async def add(self, config: ModelConfig) -> None:
        """Take a further model in and load it. Raises ApiError, and then there is no such model."""
        entry = _Entry(config.called, None, config, config.prices)
        try:
            self._add(entry)
        except ConfigError as error:
            raise ApiError(409, str(error), param="name", code="name_taken") from error
        try:
            async with self.lease(entry.name):
                pass
        except BaseException:
            if self._entries.get(entry.name) is entry:
                del self._entries[entry.name]
                self._aliases = {alias: to for alias, to in self._aliases.items() if to != entry.name}
            raise

    async def remove(self, name: str) -> None:
        """Let no further request begin with a model, and unload it when the last one has ended.

        Raises ApiError: there is no such model, or an alias stands for it.
        """
        entry = self._entries.get(name)
        if entry is None:
            raise ApiError(404, f"{name!r}: no such model", param="name", code="model_not_found")
        pointing = [alias for alias, target in self._aliases.items() if target == name]
        if pointing:
            message = f"{name!r} is what {', '.join(pointing)} stands for: switch the alias first"
            raise ApiError(409, message, param="name", code="alias_in_use")
        del self._entries[name]
        self._leaving.append(entry)
        await entry.unused.wait()
        await self._unload(entry)
        self._leaving.remove(entry)

    def switch(self, changes: Mapping[str, str | None]) -> None:
        """Let aliases stand for other models, all at once; None takes an alias away. Raises ApiError."""
        table = {**self._aliases, **changes}
        try:
            checked = self._checked({alias: target for alias, target in table.items() if target is not None})
        except ConfigError as error:
            raise invalid(str(error), "aliases") from error
        self._aliases = checked

    async def unload_idle(self) -> None:
        """Unload what nobody has used for `idle_s`. To be called now and then."""
        if self._idle_s is None:
            return
        for entry in self._unloadable():
            if self._clock() - entry.used_s >= self._idle_s and not entry.users:
                await self._unload(entry)

    async def close(self) -> None:
        """Unload everything."""
        for entry in self._all():
            if entry.loading is not None:
                await asyncio.wait([entry.loading])
            await self._unload(entry)

    def _all(self) -> list[_Entry]:
        return [*self._entries.values(), *self._leaving]

    def _add(self, entry: _Entry) -> None:
        if not entry.name or entry.name in self._entries or entry.name in self._aliases:
            raise ConfigError(f"models: the name {entry.name!r} is empty or taken: choose another")
        self._entries[entry.name] = entry
        entry.used_s = self._clock()

    def _checked(self, aliases: Mapping[str, str]) -> Mapping[str, str]:
        for alias, target in aliases.items():
            if alias in self._entries or not alias:
                raise ConfigError(f"aliases: {alias!r} is the name of a model: choose another alias")
            if self._find(target)[0] is None or target in self._aliases:
                known = ", ".join(self.names)
                raise ConfigError(f"aliases: {alias} = {target!r}: no such model; known: {known}")
        return dict(aliases)

    async def _backend(self, entry: _Entry) -> Backend:
        if entry.backend is not None:
            return entry.backend
        if entry.loading is None:
            entry.loading = asyncio.get_running_loop().create_task(self._load(entry))
            # Its error is told to whoever waits; it may be that nobody does any more.
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        # One who waits may leave; the others still want the model.
        return await asyncio.shield(entry.loading)

    async def _load(self, entry: _Entry) -> Backend:
        try:
            return await self._bring_in(entry)
        except MohistError as error:
            _log.error("a model could not be loaded", extra={"model": entry.name, "reason": str(error)})
            message = f"the model {entry.name} could not be loaded: the server's log says why"
            raise ApiError(503, message, type="server_error", code="model_not_loaded") from error
        finally:
            entry.loading = None

    async def _bring_in(self, entry: _Entry) -> Backend:
        config = entry.config
        assert config is not None, f"{entry.name} is not of this machine"
        async with self._loads:
            start_s = time.monotonic()
            needed = await asyncio.to_thread(self._loader.memory_bytes, config)
            await self._make_room(entry.name, needed)
            entry.backend = await asyncio.to_thread(self._loader.load, config)
            entry.memory_bytes = needed
            await asyncio.to_thread(self._loader.settle)
        seconds = round(time.monotonic() - start_s, 3)
        _log.info("model loaded", extra={"model": entry.name, "bytes": needed, "seconds": seconds})
        return entry.backend

    async def _would_unload(self, config: ModelConfig) -> bool:
        used = sum(entry.memory_bytes for entry in self._all())
        if self._budget_bytes is None or not used:
            return False
        return used + await asyncio.to_thread(self._loader.memory_bytes, config) > self._budget_bytes

    async def _make_room(self, name: str, needed: int) -> None:
        if self._budget_bytes is None:
            return
        if needed > self._budget_bytes:
            raise ConfigError(
                f"{name} needs {needed:,} bytes, and memory.models_gib allows {self._budget_bytes:,}"
            )
        while sum(entry.memory_bytes for entry in self._all()) + needed > self._budget_bytes:
            idle = [entry for entry in self._unloadable() if not entry.users]
            if not idle:
                raise overloaded(f"there is no memory for {name} while other models are in use", 5)
            await self._unload(min(idle, key=lambda entry: entry.used_s))

    def _unloadable(self) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.config and entry.backend]

    async def _unload(self, entry: _Entry) -> None:
        backend, entry.backend = entry.backend, None
        if backend is not None:
            await backend.close()
            del backend
            # A model is a web of references; its memory should be there for the next one.
            await asyncio.to_thread(self._loader.settle)
            _log.info("model unloaded", extra={"model": entry.name})
        entry.memory_bytes = 0

    def _state(self, entry: _Entry) -> ModelState:
        states: dict[Literal["leaving", "loaded", "loading"], object] = {
            "leaving": entry in self._leaving,
            "loaded": entry.backend,
            "loading": entry.loading,
        }
        return ModelState(
            name=entry.name,
            state=next((state for state, holds in states.items() if holds), "not loaded"),
            requests=entry.users,
            idle_s=0.0 if entry.users else self._clock() - entry.used_s,
            memory_bytes=entry.memory_bytes,
            source="" if entry.config is None else entry.config.source,
            aliases=tuple(alias for alias, target in self._aliases.items() if target == entry.name),
        )
