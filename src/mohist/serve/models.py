"""The models of a server: who uses which, and how they come and go.

A request takes a *lease*: the name is looked up once, in that moment, and the request ends on the model that
it began with. What is leased is never unloaded. Names and aliases are in `registry`, what is in memory is in
`memory`. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.backend import Backend
from mohist.serve.errors import ApiError, invalid
from mohist.serve.loading import LOADER, Loader, ModelConfig
from mohist.serve.memory import Entry, Memory
from mohist.serve.registry import Registry
from mohist.serve.upstream import Upstream

__all__ = ["Journal", "ModelState", "Models"]


State = Literal["loaded", "loading", "failed", "not loaded", "leaving"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """A model at this moment, for operators."""

    name: str
    state: State
    requests: int
    """That use it or wait for it."""
    idle_s: float
    """Since the last request ended."""
    memory_bytes: int
    """Weights and cache; 0 while it is not loaded, or for another server's."""
    source: str
    aliases: tuple[str, ...]
    settings: ModelConfig | None
    """None for another server's."""
    error: str | None
    """Why it could not be loaded when that was last tried."""


class Journal(Protocol):
    """Where changes are written down, so that they outlive the server."""

    async def keep(
        self,
        *,
        models: Mapping[str, ModelConfig | None] | None = None,
        aliases: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write down changes that are about to be made, all or none. Raises ApiError: make none."""
        ...


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
        journal: Journal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Models of this machine, which are loaded when they are asked for, and those of other servers.

        Loaded models together need at most `budget_bytes`: those unused for longest make room. A model
        unused for `idle_s` is unloaded by `unload_idle`. Changes are written to the `journal` before they are
        made. Raises ConfigError: names or aliases that clash.
        """
        self._memory = Memory(loader, budget_bytes=budget_bytes, idle_s=idle_s, clock=clock)
        self._clock = clock
        self._journal = journal
        self._changing = asyncio.Lock()
        """Held from the look at what is there to the change of it."""
        self._registry = Registry()
        self._leaving: list[Entry] = []
        """Models that no new request finds, while their last requests end."""
        for config in configs:
            self._registry.add(self._entry(config))
        for upstream in upstreams:
            self._registry.add(Entry(upstream.name, upstream, None, upstream.prices))
        self._registry.aliases = self._registry.checked(aliases or {})

    @property
    def names(self) -> list[str]:
        """All names that may be asked for: aliases first."""
        return self._registry.names

    def adapter(self, name: str) -> str | None:
        """The adapter that a name or alias asks for beside its model; None: the model as it is."""
        return self._registry.find(name)[1]

    @property
    def aliases(self) -> Mapping[str, str]:
        """What every alias stands for."""
        return self._registry.aliases

    @property
    def loaded(self) -> dict[str, Backend]:
        """What is in memory, by name."""
        return {
            name: entry.backend for name, entry in self._registry.entries.items() if entry.backend is not None
        }

    def states(self) -> list[ModelState]:
        """Every model at this moment."""
        return [self._state(entry) for entry in self._all()]

    def prices(self, name: str) -> Prices:
        """Of a model that is there or about to leave."""
        names = (name, name.rpartition(":")[0])
        return next(entry.prices for entry in reversed(self._all()) if entry.name in names)

    def state(self, name: str) -> ModelState:
        """One model at this moment."""
        return self._state(self._registry.entries[name])

    @asynccontextmanager
    async def lease(self, name: str) -> AsyncGenerator[Backend]:
        """The model behind a name or alias, for one request; loaded first if need be. Raises ApiError."""
        entry, _ = self._registry.find(name)
        if entry is None:
            names = ", ".join(self.names)
            message = f"The supported API model names are {names}, but you passed {name}."
            raise invalid(message, "model", "model_not_found")
        entry.users += 1
        entry.unused.clear()
        try:
            yield await self._memory.backend(entry)
        finally:
            entry.users -= 1
            entry.used_s = self._clock()
            if not entry.users:
                entry.unused.set()

    async def start(self) -> None:
        """Load what is wanted at the start, as far as memory allows. Raises MohistError."""
        for entry in list(self._registry.entries.values()):
            try:
                await self._memory.load_at_start(entry)
            except Exception:
                if not entry.restored:
                    raise
                # It was logged and is shown; who changed it is not there to mend it, and others are needed.

    def restore_model(self, name: str, config: ModelConfig | None) -> None:
        """Before the start: have another model under a name, or none. Raises ApiError, ConfigError."""
        if config is None:
            del self._registry.entries[self._registry.removable(name).name]
            return
        entry = self._entry(config)
        entry.restored = True
        self._registry.replace(name, entry)

    def restore_alias(self, alias: str, target: str | None) -> None:
        """Before the start: let an alias stand for a model, or for none. Raises ApiError."""
        self._registry.aliases = self._registry.switched({alias: target})

    async def add(self, config: ModelConfig) -> None:
        """Take a further model in and load it. Raises ApiError, and then there is no such model."""
        entry = self._entry(config)
        entry.coming = True
        async with self._changing:
            try:
                self._registry.add(entry)
            except ConfigError as error:
                raise ApiError(409, str(error), param="name", code="name_taken") from error
        try:
            async with self.lease(entry.name):
                pass
            async with self._changing:
                if self._registry.entries.get(entry.name) is not entry:
                    raise ApiError(409, f"{entry.name!r} was taken away while it was loaded", param="name")
                if self._journal is not None:
                    await self._journal.keep(models={entry.name: config})
                entry.coming = False
        except Exception as error:
            self._take_out(entry)
            await self._let_go(entry)
            if entry.error is None:
                raise
            message = f"the model {entry.name} could not be loaded: {entry.error}"
            raise ApiError(503, message, type="server_error", code="model_not_loaded") from error
        except BaseException:
            self._take_out(entry)
            raise

    async def remove(self, name: str) -> None:
        """Let no further request begin with a model, and unload it when the last one has ended.

        Raises ApiError: there is no such model, or an alias stands for it.
        """
        async with self._changing:
            entry = self._registry.removable(name)
            if self._journal is not None:
                await self._journal.keep(models={name: None})
            self._take_out(entry)
        await self._let_go(entry)

    async def switch(self, changes: Mapping[str, str | None]) -> None:
        """Let aliases stand for other models, all at once; None takes an alias away. Raises ApiError."""
        async with self._changing:
            table = self._registry.switched(changes)
            if self._journal is not None:
                new = {alias: to for alias, to in changes.items() if self.aliases.get(alias) != to}
                await self._journal.keep(aliases=new)
            self._registry.aliases = table

    async def unload_idle(self) -> None:
        """Unload what nobody has used for `idle_s`. To be called now and then."""
        await self._memory.unload_idle()

    async def close(self) -> None:
        """Unload everything."""
        for entry in self._all():
            if entry.loading is not None:
                await asyncio.wait([entry.loading])
            await self._memory.unload(entry)

    def _all(self) -> list[Entry]:
        return [*self._registry.entries.values(), *self._leaving]

    def _entry(self, config: ModelConfig) -> Entry:
        entry = Entry(config.called, None, config, config.prices)
        entry.used_s = self._clock()
        return entry

    def _take_out(self, entry: Entry) -> None:
        """Let no request find a model any more."""
        if self._registry.entries.get(entry.name) is entry:
            del self._registry.entries[entry.name]
            self._leaving.append(entry)

    async def _let_go(self, entry: Entry) -> None:
        """Unload a model that was taken out, once nobody uses it."""
        await entry.unused.wait()
        await self._memory.unload(entry)
        if entry in self._leaving:
            self._leaving.remove(entry)

    def _state(self, entry: Entry) -> ModelState:
        states: dict[State, object] = {
            "leaving": entry in self._leaving,
            "loaded": entry.backend,
            "loading": entry.loading,
            "failed": entry.error,
        }
        return ModelState(
            name=entry.name,
            state=next((state for state, holds in states.items() if holds), "not loaded"),
            requests=entry.users,
            idle_s=0.0 if entry.users else self._clock() - entry.used_s,
            memory_bytes=entry.memory_bytes,
            source="" if entry.config is None else entry.config.source,
            aliases=self._registry.aliases_of(entry),
            settings=entry.config,
            error=entry.error,
        )
