"""`mohist keys` and `mohist usage`, on a database of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mohist.cli.main import main
from mohist.serve.database import Database
from mohist.serve.keys import KeyRing, Keys, read_pepper
from mohist.serve.usage import UsageEntry, UsageWriter


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def mohist(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_key_is_made_listed_and_revoked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data", str(data))
    words = ("keys", "create", "Ann's laptop", "--role", "admin", "--tokens-per-minute", "5000", *where)
    status, out, err = mohist(capsys, *words)
    assert status == 0
    key = out.strip()
    assert out == f"{key}\n", "nothing but the key, so that it can be piped"
    assert "for Ann's laptop; it cannot be shown again" in err
    database = Database.open(data / "mohist.db")
    principal = KeyRing(Keys(database, read_pepper(data))).principal(key)
    database.close()
    assert principal is not None
    assert (principal.name, principal.role, principal.limits.tokens_per_minute) == (
        "Ann's laptop",
        "admin",
        5000,
    )

    status, out, _ = mohist(capsys, "keys", "list", "--json", *where)
    (entry,) = [json.loads(line) for line in out.splitlines()]
    assert (entry["id"], entry["role"], entry["revoked_ms"]) == (principal.key_id, "admin", None)
    assert key.rpartition("-")[2] not in out
    status, out, _ = mohist(capsys, "keys", "list", *where)
    head, row = out.splitlines()
    assert head.split()[:4] == ["ID", "NAME", "ROLE", "MADE"]
    assert row.startswith(f"{principal.key_id}  Ann's laptop  admin")
    assert "5000" in row

    words = ("keys", "limit", principal.key_id, "--tokens-per-minute", "none", "--requests-per-minute", "60")
    status, out, _ = mohist(capsys, *words, *where)
    assert (status, out.splitlines()[1].split()[-4:]) == (0, ["60", "-", "-", "no"])
    for words, message in [
        ((principal.key_id,), "no limit is named: --requests-per-minute"),
        ((principal.key_id, "--concurrent-requests", "0"), "concurrent_requests = 0: at least 1"),
        (("nobody", "--concurrent-requests", "2"), "'nobody': no valid key has this id"),
    ]:
        status, _, err = mohist(capsys, "keys", "limit", *words, *where)
        assert (status, message in err) == (2, True)

    assert mohist(capsys, "keys", "revoke", principal.key_id, *where) == (0, "", "")
    status, _, err = mohist(capsys, "keys", "revoke", principal.key_id, *where)
    assert (status, err) == (
        2,
        f"mohist: error: '{principal.key_id}': no valid key has this id; `mohist keys list` shows them\n",
    )


def test_usage_is_reported(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--data", str(data))
    mohist(capsys, "keys", "create", "Ann", *where)
    database = Database.open(data / "mohist.db")
    (ann,) = Keys(database, read_pepper(data)).all()
    writer = UsageWriter(database)
    for day, key_id in [(20_000, ann.id), (20_001, ann.id), (20_001, "")]:
        writer.add(
            UsageEntry(
                at_ms=day * 86_400_000 + 5,
                request_id="r",
                key_id=key_id,
                model="m",
                prompt_tokens=1000,
                cached_tokens=400,
                completion_tokens=50,
                reasoning_tokens=10,
                cost_nano=1_500_000,
                currency="EUR",
            )
        )
    writer.close()
    database.close()
    status, out, _ = mohist(capsys, "usage", *where)
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["KEY", "MODEL", "CHOICES", "PROMPT", "CACHED", "COMPLETION", "REASONING", "COST"],
        ["(no", "key)", "m", "1", "1,000", "400", "50", "10", "0.001500", "EUR"],
        ["Ann", "m", "2", "2,000", "800", "100", "20", "0.003000", "EUR"],
    ]
    status, out, _ = mohist(capsys, "usage", "--by", "day", "--since", "2024-10-05", "--json", *where)
    (one,) = [json.loads(line) for line in out.splitlines()]
    assert (one["day_ms"], one["choices"], one["cost_nano"]) == (20_001 * 86_400_000, 2, 3_000_000)
    status, out, _ = mohist(capsys, "usage", "--by", "day", "--until", "2024-10-05", *where)
    assert out.splitlines()[1].startswith("2024-10-04  ")
    status, out, _ = mohist(capsys, "usage", "--key", "nobody", *where)
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keys", "create", ""], "a key needs a printable name"),
        (["keys", "create", "x", "--requests-per-minute", "0"], "requests_per_minute = 0: at least 1"),
        (["usage", "--by", "day,week"], "by = 'week': known: key, model, day"),
        (["usage", "--database", "mysql://x"], "expected the path of a SQLite file, or postgresql://"),
    ],
)
def test_mistakes_are_explained(
    data: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    status, _, err = mohist(capsys, *words, "--data", str(data))
    assert status == 2
    assert message in err


@pytest.mark.parametrize("verb", ["keys list", "usage"])
def test_without_the_extra_the_error_names_it(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    status, _, err = mohist(capsys, *verb.split())
    assert status == 2
    assert "needs the package sqlalchemy: pip install 'mohist[serve]'" in err
