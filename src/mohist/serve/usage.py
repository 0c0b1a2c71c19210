"""What was used and what it costs: one entry for each finished choice, written behind the requests' backs.

`UsageWriter.add` only appends to a list; one thread writes what has gathered, a few times a second, in one
transaction. So a kill loses at most the last fraction of a second. A database that cannot be written to is
tried again until it can, and no entry is written twice, whatever became of the first attempt. Meanwhile
entries wait in memory: `UsageWriter.overdue` tells the operator, and `full` asks not to accept more work.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Literal, get_args
from uuid import uuid4

from sqlalchemy import ColumnElement, cast, func, select, text
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.types import BigInteger

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.database import Database, keys, usage

__all__ = ["Grouping", "UsageEntry", "UsageSum", "UsageWriter", "cost_nano", "report"]

DAY_MS = 86_400_000
MOST_WAITING = 100_000
"""Entries in memory, some 100 MB of them, at which a writer is full."""
Grouping = Literal["key", "model", "day"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageEntry:
    """What one choice used."""

    at_ms: int
    """When it ended: milliseconds since 1970, UTC."""
    request_id: str
    key_id: str
    """Empty where the server asks for no keys."""
    model: str
    """The model itself, not the alias that was asked for."""
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that came from the prefix cache."""
    completion_tokens: int
    reasoning_tokens: int
    """Those of the completion tokens that were thinking."""
    cost_nano: int
    """10**-9 of `currency`."""
    currency: str
    id: str = field(default_factory=lambda: uuid4().hex)
    """Makes a second attempt to write the entry find the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageSum:
    """What a group of choices used together. Of key, model and day (UTC), those not grouped by are None."""

    key_id: str | None
    key_name: str | None
    model: str | None
    day_ms: int | None
    """The first millisecond of the day."""
    currency: str
    choices: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cost_nano: int


def cost_nano(prices: Prices, *, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> int:
    """The price of tokens in 10**-9 of the currency, computed exactly and rounded once.

    `prices.machine_per_hour` is not charged: who shares the machine at that moment is no caller's doing.
    """
    per_million = (
        (prompt_tokens - cached_tokens) * Decimal(str(prices.prompt_per_million))
        + cached_tokens * Decimal(str(prices.cached_per_million))
        + completion_tokens * Decimal(str(prices.completion_per_million))
    )
    return int((per_million * 1000).to_integral_value(ROUND_HALF_EVEN))


_COLUMNS = [entry.name for entry in fields(UsageEntry)]
_INSERT = text(
    f"INSERT INTO usage ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    "ON CONFLICT (id) DO NOTHING"
)


class UsageWriter:
    """Takes entries from any thread and writes them from its own, until it is closed."""

    def __init__(self, database: Database, *, interval_s: float = 0.25) -> None:
        self._database = database
        self._interval_s = interval_s
        self._waiting: list[UsageEntry] = []
        self._changed = threading.Condition()
        self._closing = False
        self.overdue = False
        """Whether the last attempt to write failed, so that entries wait in memory only."""
        self._thread = threading.Thread(target=self._run, name="usage writer", daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether so many entries wait that no more work should be accepted."""
        return len(self._waiting) >= MOST_WAITING

    def add(self, entry: UsageEntry) -> None:
        """Take an entry, to be in the database within half a second."""
        with self._changed:
            self._waiting.append(entry)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left, in one more attempt if the database is away, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                # Gather for a moment: many entries are one transaction, one wait for the disk.
                self._changed.wait_for(lambda: self._closing, self._interval_s)
                entries, closing = list(self._waiting), self._closing
            if self._write(entries):
                with self._changed:
                    del self._waiting[: len(entries)]
            if closing:
                break
        if self._waiting:
            _log.error("usage is lost", extra={"entries": len(self._waiting)})

    def _write(self, entries: Sequence[UsageEntry]) -> bool:
        """Whether the entries need no further attempt."""
        try:
            self._insert(entries)
        except (DataError, IntegrityError) as error:
            # One of them is not what the database takes, a defect of ours. It must not hold up the others.
            if len(entries) > 1:
                return all(self._write([entry]) for entry in entries)
            _log.error("usage is lost", extra={"entries": 1, "reason": type(error.orig).__name__})
        except SQLAlchemyError as error:
            if not self.overdue:
                extra = {"database": self._database.shown, "reason": type(error).__name__}
                _log.error("usage cannot be written; trying again", extra=extra)
            self.overdue = True
            return False
        self.overdue = False
        return True

    def _insert(self, entries: Sequence[UsageEntry]) -> None:
        if entries:
            with self._database.writing() as connection:
                connection.execute(_INSERT, [asdict(entry) for entry in entries])


def report(
    database: Database,
    *,
    since_ms: int = 0,
    until_ms: int = 2**62,
    by: Sequence[Grouping] = ("key", "model"),
    key_id: str | None = None,
) -> list[UsageSum]:
    """Sums over entries with `since_ms <= at_ms < until_ms`, of one key or all, in the order of the groups.

    Different currencies are never added up. Raises ConfigError for a grouping that is not known.
    """
    unknown = [name for name in by if name not in get_args(Grouping)]
    if unknown:
        raise ConfigError(f"by = {unknown[0]!r}: known: {', '.join(get_args(Grouping))}")
    day = usage.c.at_ms - usage.c.at_ms % DAY_MS
    columns: dict[str, ColumnElement] = {"key": usage.c.key_id, "model": usage.c.model, "day": day}
    groups = [*(columns[name] for name in dict.fromkeys(by)), usage.c.currency]
    chosen = {name: column for name, column in columns.items() if name in by}
    counted = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano")
    query = (
        select(
            *(column.label(f"{name}_group") for name, column in chosen.items()),
            usage.c.currency,
            func.count().label("choices"),
            # Postgres sums BIGINTs to NUMERIC, which would come back as another type.
            *(cast(func.sum(usage.c[name]), BigInteger).label(name) for name in counted),
        )
        .where(usage.c.at_ms >= since_ms, usage.c.at_ms < until_ms)
        .group_by(*groups)
    )
    if key_id is not None:
        query = query.where(usage.c.key_id == key_id)
    with database.reading() as connection:
        rows = connection.execute(query).mappings().all()
        names = {row.id: row.name for row in connection.execute(select(keys.c.id, keys.c.name))}
    sums = [
        UsageSum(
            key_id=row.get("key_group"),
            key_name=names.get(row.get("key_group")),
            model=row.get("model_group"),
            day_ms=row.get("day_group"),
            currency=row["currency"],
            choices=row["choices"],
            **{name: row[name] for name in counted},
        )
        for row in rows
    ]
    # Sorted here: databases order text by their own collations.
    return sorted(sums, key=lambda one: (one.day_ms or 0, one.key_id or "", one.model or "", one.currency))
