"""API keys: made at random, shown once, kept only as digests.

A key reads `sk-mohist-ID-SECRET`. The identifier finds the row; the secret, 256 random bits, is compared as a
BLAKE2b digest under a salt of the row and a pepper. The pepper is a file beside the database, not in it: who
can read or write the database alone can neither try keys nor put a key of his own there. A fast digest is
enough, since nobody can go through 2**256 secrets.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

from sqlalchemy import Row, insert, select, update

from mohist.errors import ConfigError
from mohist.serve.access import Principal, Role
from mohist.serve.database import Database, keys
from mohist.serve.limits import KeyLimits

__all__ = ["KeyRecord", "KeyRing", "Keys", "read_pepper"]

PREFIX = "sk-mohist-"
LIMITS = tuple(entry.name for entry in fields(KeyLimits))
SHARED_SALT = b"shared"
"""The prefix cache's salt of all keys that share their prefixes with each other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRecord:
    """One key as the database knows it."""

    id: str
    name: str
    role: Role
    created_ms: int
    revoked_ms: int | None
    limits: KeyLimits
    shares_cache: bool
    """Whether its prompts share cached prefixes with other keys that do."""
    salt: bytes
    digest: bytes

    def public(self) -> dict[str, Any]:
        """What may be shown of it, as JSON data."""
        return {name: value for name, value in asdict(self).items() if name not in ("salt", "digest")}


class Keys:
    """The keys in a database, to be made, listed, limited and revoked."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self.pepper = pepper

    def create(
        self, name: str, *, role: Role = "user", limits: KeyLimits | None = None, shares_cache: bool = False
    ) -> tuple[KeyRecord, str]:
        """Make a key; its record, and the key itself, which is nowhere else from now on."""
        if not name.strip() or len(name) > 200 or not name.isprintable():
            raise ConfigError(f"name = {name!r}: a key needs a printable name of 1 to 200 characters")
        if role not in get_args(Role):
            raise ConfigError(f"role = {role!r}: known: {', '.join(get_args(Role))}")
        secret, salt = secrets.token_urlsafe(32), secrets.token_bytes(16)
        record = KeyRecord(
            id=secrets.token_hex(6),
            name=name.strip(),
            role=role,
            created_ms=time.time_ns() // 1_000_000,
            revoked_ms=None,
            limits=limits or KeyLimits(),
            shares_cache=shares_cache,
            salt=salt,
            digest=digest_of(secret, salt, self.pepper),
        )
        with self._database.writing() as connection:
            connection.execute(insert(keys).values(_to_row(record)))
        return record, f"{PREFIX}{record.id}-{secret}"

    def all(self) -> list[KeyRecord]:
        """All keys, revoked ones too, the oldest first."""
        with self._database.reading() as connection:
            return [_from_row(row) for row in connection.execute(select(keys).order_by("created_ms", "id"))]

    def limit(self, id: str, changes: Mapping[str, int | None]) -> KeyRecord | None:
        """Set limits of a valid key, by their names in `KeyLimits`; None: no limit. Those not named stay.

        The record as it is then; None if no valid key has this id. Raises ConfigError: no such limit, or not
        a limit, and then nothing is changed.
        """
        unknown = [name for name in changes if name not in LIMITS]
        if unknown:
            raise ConfigError(f"{unknown[0]}: no such limit; known: {', '.join(LIMITS)}")
        KeyLimits(**changes)
        valid = (keys.c.id == id) & keys.c.revoked_ms.is_(None)
        with self._database.writing() as connection:
            if changes:
                connection.execute(update(keys).where(valid).values(**changes))
            row = connection.execute(select(keys).where(valid)).one_or_none()
        return None if row is None else _from_row(row)

    def revoke(self, id: str) -> bool:
        """Make a key invalid for good; its name stays for the reports. False if no valid key has this id."""
        valid = (keys.c.id == id) & keys.c.revoked_ms.is_(None)
        with self._database.writing() as connection:
            result = connection.execute(
                update(keys).where(valid).values(revoked_ms=time.time_ns() // 1_000_000)
            )
            return result.rowcount == 1


class KeyRing:
    """The valid keys in memory, for every request to be held against. `refresh` reads them anew."""

    def __init__(self, store: Keys, *, compare: Callable[[bytes, bytes], bool] = hmac.compare_digest) -> None:
        self._store = store
        self._compare = compare
        self._records: Mapping[str, KeyRecord] = {}
        self._refreshing = threading.Lock()
        # What an unknown identifier is compared with, so that it takes as long as a known one.
        self._nobody = (secrets.token_bytes(16), secrets.token_bytes(32))
        self.refresh()

    def refresh(self) -> None:
        """Take over what the database holds. Any thread may call this at any time."""
        # One after the other: what was read earlier must not replace what was read later.
        with self._refreshing:
            self._records = {record.id: record for record in self._store.all() if record.revoked_ms is None}

    def __len__(self) -> int:
        return len(self._records)

    def principal(self, token: str) -> Principal | None:
        """Whom a key belongs to; None if it is not valid. Known and unknown keys take the same steps."""
        id, _, secret = token.removeprefix(PREFIX).partition("-")
        record = self._records.get(id)
        salt, digest = self._nobody if record is None else (record.salt, record.digest)
        same = self._compare(digest_of(secret, salt, self._store.pepper), digest)
        return _principal(record, self._store.pepper) if record is not None and same else None


def digest_of(secret: str, salt: bytes, pepper: bytes) -> bytes:
    """What is kept of a secret: 32 bytes."""
    return blake2b(secret.encode(), digest_size=32, key=pepper, salt=salt, person=b"mohist api key").digest()


def read_pepper(folder: Path) -> bytes:
    """The pepper in `folder`, made at the first call. Raises ConfigError where that cannot be."""
    path = folder / "pepper"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            _make_pepper(path)
        pepper = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read or made: {error.strerror}") from error
    if len(pepper) != 32:
        raise ConfigError(f"{path}: {len(pepper)} bytes instead of 32: put the file back, or make new keys")
    return pepper


def _make_pepper(path: Path) -> None:
    # Linked into place whole: of two processes that begin at once, both go on with the same one.
    fresh = path.with_name(f"pepper.{secrets.token_hex(8)}")
    fresh.touch(mode=0o600, exist_ok=False)
    try:
        fresh.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):
            path.hardlink_to(fresh)
    finally:
        fresh.unlink()


def _principal(record: KeyRecord, pepper: bytes) -> Principal:
    own = blake2b(record.id.encode(), digest_size=16, key=pepper, person=b"mohist salt").digest()
    return Principal(
        key_id=record.id,
        name=record.name,
        role=record.role,
        salt=SHARED_SALT if record.shares_cache else own,
        limits=record.limits,
    )


def _to_row(record: KeyRecord) -> dict[str, object]:
    limits = record.limits
    return {
        "id": record.id,
        "name": record.name,
        "role": record.role,
        "salt": record.salt.hex(),
        "digest": record.digest.hex(),
        "created_ms": record.created_ms,
        "revoked_ms": record.revoked_ms,
        "requests_per_minute": limits.requests_per_minute,
        "tokens_per_minute": limits.tokens_per_minute,
        "concurrent_requests": limits.concurrent_requests,
        "shares_cache": record.shares_cache,
    }


def _from_row(row: Row) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        role=row.role,
        created_ms=row.created_ms,
        revoked_ms=row.revoked_ms,
        limits=KeyLimits(
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            concurrent_requests=row.concurrent_requests,
        ),
        shares_cache=row.shares_cache,
        salt=bytes.fromhex(row.salt),
        digest=bytes.fromhex(row.digest),
    )
