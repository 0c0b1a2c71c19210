"""Where a server keeps keys, usage and changes: in SQLite (a file, the default) or Postgres (by URL).

Both have one schema and go through SQLAlchemy Core; every query here and in `keys`, `usage` and `changes` is
written once for both. The schema grows by `MIGRATIONS`: the table `schema_version` says how many of them a
database has seen, and `Database.open` applies the rest. Times are milliseconds since 1970 (UTC), money is in
10**-9 of a currency unit: whole numbers, so that the two databases add up to equal results.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Index,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from mohist.errors import ConfigError

__all__ = ["MIGRATIONS", "Database", "changes", "data_folder", "keys", "metadata", "usage"]

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("salt", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent_requests", BigInteger),
    Column("shares_cache", Boolean, nullable=False),
)
"""API keys. `salt` and `digest` are hexadecimal; what `digest` is a digest of is said in `keys.py`."""

usage = Table(
    "usage",
    metadata,
    Column("id", Text, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_nano", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Index("usage_by_time", "at_ms"),
)
"""One row for each finished choice. `key_id` is empty where the server asks for no keys."""

changes = Table(
    "changes",
    metadata,
    Column("server", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("configured", Text),
    Column("changed", Text),
    Column("at_ms", BigInteger, nullable=False),
)
"""Models and aliases that the admin API changed: see `changes.py`."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE keys (
            id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, salt TEXT NOT NULL,
            digest TEXT NOT NULL, created_ms BIGINT NOT NULL, revoked_ms BIGINT, requests_per_minute BIGINT,
            tokens_per_minute BIGINT, concurrent_requests BIGINT, shares_cache BOOLEAN NOT NULL)""",
    ),
    (
        """CREATE TABLE usage (
            id TEXT NOT NULL PRIMARY KEY, at_ms BIGINT NOT NULL, request_id TEXT NOT NULL,
            key_id TEXT NOT NULL, model TEXT NOT NULL, prompt_tokens BIGINT NOT NULL,
            cached_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
            reasoning_tokens BIGINT NOT NULL, cost_nano BIGINT NOT NULL, currency TEXT NOT NULL)""",
        "CREATE INDEX usage_by_time ON usage (at_ms)",
    ),
    (
        """CREATE TABLE changes (
            server TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, configured TEXT, changed TEXT,
            at_ms BIGINT NOT NULL, PRIMARY KEY (server, kind, name))""",
    ),
)
"""Entry i holds the statements, in SQL that both databases read, that lead from version i to i + 1."""

_MIGRATION_LOCK = 0x6D6F68697374
"""Names the lock under which one process at a time migrates a Postgres database."""


def data_folder() -> Path:
    """Where a server keeps its files unless told otherwise: `mohist` in the user's data folder (XDG)."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "mohist"


class Database:
    """Connections to one database whose schema is up to date. Threads may share it."""

    def __init__(self, engine: Engine, shown: str) -> None:
        self._engine = engine
        self.shown = shown
        """Its address for people, without a password."""

    @classmethod
    def open(cls, where: str | Path, *, migrations: tuple[tuple[str, ...], ...] = MIGRATIONS) -> Database:
        """Open a SQLite file (made, with its folder, where missing) or a `postgresql://` URL, and migrate it.

        Raises ConfigError: not a database that is known, cannot be reached, or newer than this Mohist.
        """
        url = _url(where)
        shown = url.database or "" if url.get_backend_name() == "sqlite" else url.render_as_string()
        try:
            wait = {} if url.get_backend_name() == "sqlite" else {"connect_timeout": 5}
            engine = create_engine(url, pool_pre_ping=True, connect_args=wait)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{shown}: Postgres needs a driver: pip install 'mohist[postgres]'") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        database = cls(engine, shown)
        try:
            with database.writing() as connection:
                _migrate(connection, migrations, shown)
        except DBAPIError as error:
            database.close()
            raise ConfigError(f"{shown}: cannot be used as a database: {error.orig}") from error
        except ConfigError:
            database.close()
            raise
        return database

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """A transaction that may write; committed on leaving, rolled back by an exception."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A transaction that only reads, and holds up no writer."""
        with self._engine.connect().execution_options(only_reads=True) as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _url(where: str | Path) -> URL:
    if "://" not in str(where):
        path = Path(where).absolute()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(f"{path.parent}: cannot be made a folder for data: {error.strerror}") from error
        return URL.create("sqlite+pysqlite", database=str(path))
    try:
        url = make_url(str(where))
        if url.get_backend_name() == "postgresql":
            return url.set(drivername="postgresql+psycopg")
    except (ArgumentError, NoSuchModuleError):
        pass  # Neither the URL nor a password in it is repeated.
    raise ConfigError("database: expected the path of a SQLite file, or postgresql://USER@HOST/NAME")


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    # The driver must not begin transactions by itself: it would do so too late, as readers.
    connection.isolation_level = None
    cursor = connection.cursor()
    # FULL: what was committed outlives a power cut, not only the process.
    for pragma in ("busy_timeout = 10000", "journal_mode = WAL", "synchronous = FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reads = connection.get_execution_options().get("only_reads", False)
    # A writer that began as a reader could find its snapshot outdated, and would fail instead of waiting.
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _migrate(connection: Connection, migrations: tuple[tuple[str, ...], ...], shown: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:name)"), {"name": _MIGRATION_LOCK})
    connection.execute(text("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)"))
    version = connection.execute(text("SELECT version FROM schema_version")).scalar()
    if version is None:
        version = 0
        connection.execute(text("INSERT INTO schema_version (version) VALUES (0)"))
    if version > len(migrations):
        raise ConfigError(
            f"{shown}: its schema has version {version}, and this Mohist knows versions up to "
            f"{len(migrations)}: use the newer Mohist that wrote it, or another database"
        )
    for statements in migrations[version:]:
        for statement in statements:
            connection.execute(text(statement))
    connection.execute(text("UPDATE schema_version SET version = :version"), {"version": len(migrations)})
