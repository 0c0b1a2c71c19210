"""Which name stands for which model: models, their adapters (MODEL:NAME), and aliases of either.

An alias is switched by replacing the whole table of aliases in one assignment, so that every request sees
either the old table or the new one.
"""

from __future__ import annotations

from collections.abc import Mapping

from mohist.errors import ConfigError
from mohist.serve.errors import ApiError, invalid
from mohist.serve.loading import MOST_NAME_CHARS
from mohist.serve.memory import Entry

__all__ = ["Registry"]


class Registry:
    """The names of one server. What changes it is wholly done or not at all."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        """Models by name."""
        self.aliases: Mapping[str, str] = {}
        """What every alias stands for. Replaced as a whole, never written to."""

    @property
    def names(self) -> list[str]:
        """All names that may be asked for: aliases first."""
        adapted = [f"{one.name}:{adapter}" for one in self.entries.values() for adapter in one.adapters]
        return [*self.aliases, *self.entries, *adapted]

    def find(self, name: str) -> tuple[Entry | None, str | None]:
        """The model behind a name or alias, and the adapter that it names; None for what is unknown."""
        target = self.aliases.get(name, name)
        if target in self.entries:
            return self.entries[target], None
        model, _, adapter = target.rpartition(":")
        entry = self.entries.get(model)
        return (entry, adapter) if entry is not None and adapter in entry.adapters else (None, None)

    def aliases_of(self, entry: Entry) -> tuple[str, ...]:
        """The aliases of a model and of its adapters."""
        return tuple(alias for alias in self.aliases if self.find(alias)[0] is entry)

    def add(self, entry: Entry) -> None:
        """Have a further model. Raises ConfigError: its name is taken."""
        if not entry.name or entry.name in self.entries or entry.name in self.aliases:
            raise ConfigError(f"models: the name {entry.name!r} is empty or taken: choose another")
        self.entries[entry.name] = entry

    def replace(self, name: str, entry: Entry) -> None:
        """Have a model in the place of the one of this name, if there is one. Raises ConfigError."""
        before = self.entries
        self.entries = {other: one for other, one in before.items() if other != name}
        try:
            self.add(entry)
            self.checked(self.aliases)
        except ConfigError:
            self.entries = before
            raise

    def removable(self, name: str) -> Entry:
        """A model that no alias stands for. Raises ApiError."""
        entry = self.entries.get(name)
        if entry is None:
            raise ApiError(404, f"{name!r}: no such model", param="name", code="model_not_found")
        pointing = self.aliases_of(entry)
        if pointing:
            message = f"{name!r} is what {', '.join(pointing)} stands for: switch the alias first"
            raise ApiError(409, message, param="name", code="alias_in_use")
        return entry

    def switched(self, changes: Mapping[str, str | None]) -> Mapping[str, str]:
        """The table of aliases with these changes; None takes one away. Raises ApiError."""
        table = {**self.aliases, **changes}
        try:
            return self.checked({alias: target for alias, target in table.items() if target is not None})
        except ConfigError as error:
            raise invalid(str(error), "aliases") from error

    def checked(self, aliases: Mapping[str, str]) -> Mapping[str, str]:
        """A table of aliases that fits the models. Raises ConfigError."""
        for alias, target in aliases.items():
            if alias in self.entries:
                raise ConfigError(f"aliases: {alias!r} is the name of a model: choose another alias")
            if not 1 <= len(alias) <= MOST_NAME_CHARS or not alias.isprintable():
                raise ConfigError(
                    f"aliases: {alias!r:.80}: an alias has 1 to {MOST_NAME_CHARS} printable characters"
                )
            entry, _ = self.find(target)
            if entry is None or target in self.aliases:
                known = ", ".join(self.names)
                raise ConfigError(f"aliases: {alias} = {target!r}: no such model; known: {known}")
            if entry.coming:
                raise ConfigError(f"aliases: {alias} = {target!r}: it is still being loaded: wait for it")
        return dict(aliases)
