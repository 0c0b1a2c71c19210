"""What the admin API changed about models and aliases, kept in the database for the next start.

The config says how a server starts; the database, what was changed since. Each change is kept with what the
config said about that name at the time. At a start it is laid over the config if the config still says the
same, and set aside if not: whoever spoke last about a name is heard. A change is written down before it is
made, so that a crash in between leaves it for the next start, whole; one that cannot be written is not made.
"""

from __future__ import annotations

import asyncio
import logging
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.exc import SQLAlchemyError

from mohist.config import dump_toml, from_dict
from mohist.errors import ConfigError
from mohist.serve.database import Database, changes
from mohist.serve.errors import ApiError
from mohist.serve.loading import ModelConfig
from mohist.serve.models import Models
from mohist.serve.upstream import UpstreamConfig

__all__ = ["Change", "Changes", "forget"]

Kind = Literal["model", "alias"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One name that stands for something else than the config says.

    A model is written as its table in TOML, an alias as the model that it stands for; None is nothing.
    """

    kind: Kind
    name: str
    configured: str | None
    """What the config said when the change was made."""
    changed: str | None
    at_ms: int
    """When: milliseconds since 1970, UTC."""
    problem: str | None = None
    """Why it is set aside, if it is."""


class Changes:
    """The changes of one server. A `Journal` of its models."""

    def __init__(
        self,
        database: Database,
        server: str,
        *,
        models: Mapping[str, ModelConfig | UpstreamConfig],
        aliases: Mapping[str, str],
    ) -> None:
        """`server` is `server.name`; `models` and `aliases` are what the config says."""
        self._database = database
        self._server = server
        self._configured = {
            **{("model", name): dump_toml(config) for name, config in models.items()},
            **{("alias", name): target for name, target in aliases.items()},
        }
        self._models = models
        query = select(changes).where(changes.c.server == server).order_by(changes.c.at_ms, changes.c.name)
        with database.reading() as connection:
            kept = [_from_row(row) for row in connection.execute(query)]
        self._changes = {(change.kind, change.name): change for change in kept}

    @property
    def all(self) -> list[Change]:
        """All changes, the oldest first."""
        return sorted(self._changes.values(), key=lambda change: (change.at_ms, change.name))

    def restore(self, models: Models) -> None:
        """Lay them over models that are as the config says, each as far as it fits."""
        problems = {change: self._outdated(change) for change in self._changes.values()}
        pending = [change for change, problem in problems.items() if problem is None]
        # One may need another: an alias its model, a name that it is free. So go round until no more fits.
        while pending:
            before, pending = pending, []
            for change in before:
                try:
                    _restore(models, change)
                    problems[change] = None
                except (ApiError, ConfigError) as error:
                    problems[change] = str(error)
                    pending.append(change)
            if len(pending) == len(before):
                break
        for change, problem in problems.items():
            self._changes[change.kind, change.name] = replace(change, problem=problem)
            extra = {"kind": change.kind, "changed": change.name}
            if problem is None:
                _log.info("a change of the admin API stands over the config", extra=extra)
            else:
                _log.warning("a change of the admin API is set aside", extra={**extra, "reason": problem})

    async def keep(
        self,
        *,
        models: Mapping[str, ModelConfig | None] | None = None,
        aliases: Mapping[str, str | None] | None = None,
    ) -> None:
        """Write changes down, all or none. None: the name is taken away. Raises ApiError."""
        texts: dict[tuple[Kind, str], str | None] = {
            **{("model", name): _text(config) for name, config in (models or {}).items()},
            **{("alias", name): target for name, target in (aliases or {}).items()},
        }
        now_ms = time.time_ns() // 1_000_000
        made = [
            Change(
                kind=kind,
                name=name,
                configured=self._configured.get((kind, name)),
                changed=text,
                at_ms=now_ms,
            )
            for (kind, name), text in texts.items()
        ]
        try:
            await asyncio.to_thread(self._write, made)
        except SQLAlchemyError as error:
            _log.error("a change cannot be kept", extra={"reason": type(error).__name__})
            message = "the change cannot be written to the database, so it was not made: try again"
            raise ApiError(503, message, type="server_error", code="not_kept") from error
        for change in made:
            self._changes.pop((change.kind, change.name), None)
            if change.changed != change.configured:
                self._changes[change.kind, change.name] = change

    def _write(self, made: list[Change]) -> None:
        with self._database.writing() as connection:
            for change in made:
                same = (changes.c.kind == change.kind) & (changes.c.name == change.name)
                connection.execute(delete(changes).where(changes.c.server == self._server, same))
                if change.changed != change.configured:
                    connection.execute(insert(changes).values(_to_row(self._server, change)))

    def _outdated(self, change: Change) -> str | None:
        """What to say of a change if the config has spoken about its name since."""
        says = self._configured.get((change.kind, change.name))
        if change.kind == "model" and says is not None and change.configured is not None:
            # Compared as settings: a newer Mohist may have more of them than it had then.
            config = self._models[change.name]
            try:
                same = from_dict(type(config), tomllib.loads(change.configured)) == config
            except (ConfigError, tomllib.TOMLDecodeError):
                same = False
        else:
            same = says == change.configured
        return None if same else "the config says something else about this name than it did then"


def forget(database: Database, server: str) -> int:
    """Drop the changes of a server; how many there were."""
    with database.writing() as connection:
        return connection.execute(delete(changes).where(changes.c.server == server)).rowcount


def _text(config: ModelConfig | None) -> str | None:
    return None if config is None else dump_toml(config)


def _restore(models: Models, change: Change) -> None:
    """Raises ApiError or ConfigError if it does not fit."""
    if change.kind == "alias":
        models.restore_alias(change.name, change.changed)
    elif change.changed is None:
        models.restore_model(change.name, None)
    else:
        try:
            table = tomllib.loads(change.changed)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{change.name}: its settings in the database are no TOML: {error}") from error
        models.restore_model(change.name, from_dict(ModelConfig, table))


def _to_row(server: str, change: Change) -> dict[str, object]:
    return {
        "server": server,
        "kind": change.kind,
        "name": change.name,
        "configured": change.configured,
        "changed": change.changed,
        "at_ms": change.at_ms,
    }


def _from_row(row: Row) -> Change:
    return Change(
        kind=row.kind, name=row.name, configured=row.configured, changed=row.changed, at_ms=row.at_ms
    )
