"""The models of a server by name and behind aliases: who asks for which, and how they come and go.

A request takes a *lease*: the name is looked up once, in that moment, and the request ends on the model that
it began with. An alias is switched by replacing the whole table of aliases in one assignment, so that every
request sees either the old table or the new one. What is leased is never unloaded. Which models are in memory
is the business of `memory`. Everything here runs on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.backend import Backend
from mohist.serve.errors import ApiError, invalid
from mohist.serve.loading import LOADER, Loader, ModelConfig
from mohist.serve.memory import Entry, Memory
from mohist.serve.upstream import Upstream

__all__ = ["ModelState", "Models"]


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
        self._memory = Memory(loader, budget_bytes=budget_bytes, idle_s=idle_s, clock=clock)
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._leaving: list[Entry] = []
        """Models that no new request finds, while their last requests end."""
        self._aliases: Mapping[str, str] = {}
        for config in configs:
            self._add(Entry(config.called, None, config, config.prices))
        for upstream in upstreams:
            self._add(Entry(upstream.name, upstream, None, upstream.prices))
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
            yield await self._memory.backend(entry)
        finally:
            entry.users -= 1
            entry.used_s = self._clock()
            if not entry.users:
                entry.unused.set()

    def _find(self, name: str) -> tuple[Entry | None, str | None]:
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
            await self._memory.load_at_start(entry)

    async def add(self, config: ModelConfig) -> None:
        """Take a further model in and load it. Raises ApiError, and then there is no such model."""
        entry = Entry(config.called, None, config, config.prices)
        try:
            self._add(entry)
        except ConfigError as error:
            raise ApiError(409, str(error), param="name", code="name_taken") from error
        entry.coming = True
        try:
            async with self.lease(entry.name):
                pass
            if self._entries.get(entry.name) is not entry:
                raise ApiError(409, f"{entry.name!r} was taken away while it was loaded", param="name")
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
        entry = self._entries.get(name)
        if entry is None:
            raise ApiError(404, f"{name!r}: no such model", param="name", code="model_not_found")
        pointing = [alias for alias in self._aliases if self._find(alias)[0] is entry]
        if pointing:
            message = f"{name!r} is what {', '.join(pointing)} stands for: switch the alias first"
            raise ApiError(409, message, param="name", code="alias_in_use")
        self._take_out(entry)
        await self._let_go(entry)

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
        await self._memory.unload_idle()

    async def close(self) -> None:
        """Unload everything."""
        for entry in self._all():
            if entry.loading is not None:
                await asyncio.wait([entry.loading])
            await self._memory.unload(entry)

    def _all(self) -> list[Entry]:
        return [*self._entries.values(), *self._leaving]

    def _add(self, entry: Entry) -> None:
        if not entry.name or entry.name in self._entries or entry.name in self._aliases:
            raise ConfigError(f"models: the name {entry.name!r} is empty or taken: choose another")
        self._entries[entry.name] = entry
        entry.used_s = self._clock()

    def _take_out(self, entry: Entry) -> None:
        """Let no request find a model any more."""
        if self._entries.get(entry.name) is entry:
            del self._entries[entry.name]
            self._leaving.append(entry)

    async def _let_go(self, entry: Entry) -> None:
        """Unload a model that was taken out, once nobody uses it."""
        await entry.unused.wait()
        await self._memory.unload(entry)
        if entry in self._leaving:
            self._leaving.remove(entry)

    def _checked(self, aliases: Mapping[str, str]) -> Mapping[str, str]:
        for alias, target in aliases.items():
            if alias in self._entries or not alias:
                raise ConfigError(f"aliases: {alias!r} is the name of a model: choose another alias")
            entry, _ = self._find(target)
            if entry is None or target in self._aliases:
                known = ", ".join(self.names)
                raise ConfigError(f"aliases: {alias} = {target!r}: no such model; known: {known}")
            if entry.coming:
                raise ConfigError(f"aliases: {alias} = {target!r}: it is still being loaded: wait for it")
        return dict(aliases)

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
            aliases=tuple(alias for alias in self._aliases if self._find(alias)[0] is entry),
            settings=entry.config,
            error=entry.error,
        )
