from __future__ import annotations

import ast
import hmac
import stat
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest
from sqlalchemy import text

from mohist.errors import ConfigError
from mohist.serve import keys as module
from mohist.serve.database import Database
from mohist.serve.keys import SHARED_SALT, KeyRing, Keys, digest_of, read_pepper
from mohist.serve.limits import KeyLimits

PEPPER = bytes(range(32))


@pytest.fixture
def store(database: Database) -> Keys:
    return Keys(database, PEPPER)


def test_a_key_is_known_by_its_text_alone(store: Keys) -> None:
    limits = KeyLimits(requests_per_minute=3, tokens_per_minute=1000, concurrent_requests=2)
    record, key = store.create("Ann", role="admin", limits=limits)
    assert store.all() == [record]
    principal = KeyRing(store).principal(key)
    assert principal is not None
    assert (principal.key_id, principal.name, principal.role, principal.limits) == (
        record.id,
        "Ann",
        "admin",
        limits,
    )
    assert repr(principal).find(key.rpartition("-")[2]) == -1


def test_the_database_holds_no_key(store: Keys, database: Database) -> None:
    record, key = store.create("Ann")
    secret = key.removeprefix(f"sk-mohist-{record.id}-")
    assert len(secret) == 43
    with database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM keys")).all()
    assert secret not in repr(rows)
    assert record.digest.hex() in repr(rows)
    # A salt and a pepper: neither equal secrets nor known ones show.
    assert record.digest == digest_of(secret, record.salt, PEPPER)
    assert record.digest != digest_of(secret, bytes(16), PEPPER)
    assert record.digest != digest_of(secret, record.salt, bytes(32))
    assert record.digest != blake2b(secret.encode(), digest_size=32).digest()


def test_what_is_not_a_key_is_nobody(store: Keys) -> None:
    record, key = store.create("Ann")
    other, _ = store.create("Bob")
    ring = KeyRing(store)
    secret = key.removeprefix(f"sk-mohist-{record.id}-")
    wrong = [
        "",
        "sk-mohist-",
        f"sk-mohist-{record.id}",
        f"sk-mohist-{record.id}-",
        key[:-1],
        key + "A",
        key.upper(),
    ]
    wrong += [
        f"sk-mohist-{other.id}-{secret}",
        secret,
        "é" * 100,
        "\x00",
        f"sk-mohist-{record.id}-{record.digest.hex()}",
    ]
    assert [ring.principal(token) for token in wrong] == [None] * len(wrong)


def test_a_revoked_key_is_nobody_from_the_next_refresh_on(store: Keys) -> None:
    record, key = store.create("Ann")
    ring = KeyRing(store)
    assert store.revoke(record.id)
    assert not store.revoke(record.id), "it has been revoked before"
    assert not store.revoke("no such id")
    ring.refresh()
    assert ring.principal(key) is None
    assert len(ring) == 0
    (kept,) = store.all()
    assert kept.revoked_ms is not None
    assert replace(kept, revoked_ms=None) == record


def test_limits_of_a_key_change_one_by_one(store: Keys) -> None:
    record, key = store.create("Ann", limits=KeyLimits(requests_per_minute=3, tokens_per_minute=1000))
    store.create("Bob", limits=KeyLimits(requests_per_minute=9))
    ring = KeyRing(store)
    expected = KeyLimits(requests_per_minute=3, concurrent_requests=2)
    changed = store.limit(record.id, {"tokens_per_minute": None, "concurrent_requests": 2})
    assert changed == replace(record, limits=expected)
    ring.refresh()
    principal = ring.principal(key)
    assert principal is not None
    assert principal.limits == expected
    assert store.limit(record.id, {}) == changed
    assert store.all()[1].limits == KeyLimits(requests_per_minute=9), "no other key is concerned"
    for changes, message in [
        ({"tokens_per_minute": 5, "requests_per_minute": 0}, "requests_per_minute = 0: at least 1"),
        (
            {"name": 5},
            "name: no such limit; known: requests_per_minute, tokens_per_minute, concurrent_requests",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            store.limit(record.id, changes)
    assert store.all()[0] == changed
    assert store.limit("no such id", {"tokens_per_minute": 5}) is None
    store.revoke(record.id)
    assert store.limit(record.id, {"tokens_per_minute": 5}) is None
    assert store.all()[0].limits == expected


def test_known_and_unknown_keys_take_the_same_steps(store: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """One digest and one comparison of 32 bytes in constant time, whatever is wrong with a key."""
    record, key = store.create("Ann")
    steps: list[tuple[str, int, int]] = []

    def compare(left: bytes, right: bytes) -> bool:
        steps.append(("compare", len(left), len(right)))
        return hmac.compare_digest(left, right)

    def digest(secret: str, salt: bytes, pepper: bytes) -> bytes:
        steps.append(("digest", len(salt), len(pepper)))
        return digest_of(secret, salt, pepper)

    ring = KeyRing(store, compare=compare)
    monkeypatch.setattr(module, "digest_of", digest)
    expected = [("digest", 16, 32), ("compare", 32, 32)]
    secret = key.removeprefix(f"sk-mohist-{record.id}-")
    for token in [key, key[:-1] + "!", f"sk-mohist-000000000000-{secret}", "x", ""]:
        steps.clear()
        ring.principal(token)
        assert steps == expected, token


def test_the_default_comparison_is_the_constant_time_one_and_nothing_else_compares_secrets() -> None:
    assert KeyRing.__init__.__kwdefaults__ == {"compare": hmac.compare_digest}
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(one, ast.Eq | ast.NotEq) for one in node.ops)
    ]
    assert compared
    assert not [text for text in compared if "secret" in text or "digest" in text], compared


def test_cache_salts_differ_between_keys_unless_they_share(store: Keys) -> None:
    made = [
        store.create(name, shares_cache=shares)[1]
        for name, shares in zip("abcd", [False, False, True, True], strict=True)
    ]
    ring = KeyRing(store)
    salts = [principal.salt for key in made if (principal := ring.principal(key)) is not None]
    assert len(set(salts[:2])) == 2
    assert salts[2:] == [SHARED_SALT] * 2
    assert b"" not in salts, "the salt of those without a key"
    again = [principal.salt for key in made if (principal := KeyRing(store).principal(key)) is not None]
    assert again == salts


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_a_name_is_for_people(store: Keys, name: str) -> None:
    with pytest.raises(ConfigError, match="a key needs a printable name"):
        store.create(name)


def test_the_pepper_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    pepper = read_pepper(folder)
    assert len(pepper) == 32
    assert read_pepper(folder) == pepper
    assert [path.name for path in folder.iterdir()] == ["pepper"]
    assert stat.S_IMODE((folder / "pepper").stat().st_mode) == 0o600
    assert read_pepper(tmp_path / "other") != pepper
    (folder / "pepper").write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes instead of 32"):
        read_pepper(folder)
