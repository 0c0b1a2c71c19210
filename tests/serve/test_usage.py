from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve import usage as module
from mohist.serve.database import Database
from mohist.serve.keys import Keys
from mohist.serve.usage import DAY_MS, Grouping, UsageEntry, UsageSum, UsageWriter, cost_nano, report

ENTRY = UsageEntry(
    at_ms=1_700_000_000_000,
    request_id="r",
    key_id="a",
    model="m",
    prompt_tokens=10,
    cached_tokens=4,
    completion_tokens=5,
    reasoning_tokens=2,
    cost_nano=100,
    currency="EUR",
)


def count(database: Database) -> int:
    with database.reading() as connection:
        return connection.execute(text("SELECT count(*) FROM usage")).scalar_one()


def some_entries(seed: int, number: int) -> list[UsageEntry]:
    rng = random.Random(seed)
    return [
        UsageEntry(
            at_ms=1_700_000_000_000 + rng.randrange(5 * DAY_MS),
            request_id=f"request {i}",
            key_id=rng.choice(["", "a", "b"]),
            model=rng.choice(["模型", "m", "M", "_m"]),
            prompt_tokens=rng.randrange(2**40),
            cached_tokens=rng.randrange(2**20),
            completion_tokens=rng.randrange(2**20),
            reasoning_tokens=rng.randrange(2**10),
            cost_nano=rng.randrange(2**45),
            currency=rng.choice(["CNY", "EUR"]),
        )
        for i in range(number)
    ]


def filled(address: str, entries: list[UsageEntry]) -> Database:
    database = Database.open(address)
    writer = UsageWriter(database)
    for entry in entries:
        writer.add(entry)
    writer.close()
    return database


def expected(entries: list[UsageEntry], by: tuple[Grouping, ...]) -> list[UsageSum]:
    """The report, added up in Python."""
    groups: dict[tuple, list[UsageEntry]] = {}
    for entry in entries:
        day = entry.at_ms // DAY_MS * DAY_MS if "day" in by else None
        key = entry.key_id if "key" in by else None
        model = entry.model if "model" in by else None
        groups.setdefault((day, key, model, entry.currency), []).append(entry)
    names = ["prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "cost_nano"]
    sums = [
        UsageSum(
            key_id=key,
            key_name=None,
            model=model,
            day_ms=day,
            currency=currency,
            choices=len(group),
            **{name: sum(getattr(entry, name) for entry in group) for name in names},
        )
        for (day, key, model, currency), group in groups.items()
    ]
    return sorted(sums, key=lambda one: (one.day_ms or 0, one.key_id or "", one.model or "", one.currency))


NAMES: tuple[Grouping, ...] = ("key", "model", "day")
GROUPINGS = [by for size in range(4) for by in itertools.combinations(NAMES, size)]


def test_reports_are_what_python_adds_up_and_equal_in_both_databases(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    entries = some_entries(1, 400)
    sqlite, postgres = filled(str(tmp_path / "u.db"), entries), filled(new_postgres(), entries)
    middle = 1_700_000_000_000 + 2 * DAY_MS
    for by in GROUPINGS:
        found = report(sqlite, by=by)
        assert found == report(postgres, by=by) == expected(entries, by)
        assert repr(found) == repr(report(postgres, by=by)), "not only equal, but of the same types"
    for since, until in [(0, middle), (middle, 2**62), (middle, middle)]:
        part = [entry for entry in entries if since <= entry.at_ms < until]
        for database in (sqlite, postgres):
            assert report(database, since_ms=since, until_ms=until) == expected(part, ("key", "model"))
            mine = [entry for entry in part if entry.key_id == "b"]
            assert report(database, since_ms=since, until_ms=until, key_id="b") == expected(
                mine, ("key", "model")
            )
    sqlite.close()
    postgres.close()


def test_reports_name_the_keys(database: Database) -> None:
    ann, _ = Keys(database, bytes(32)).create("Ann")
    writer = UsageWriter(database)
    for key_id in (ann.id, "gone"):
        writer.add(replace(ENTRY, key_id=key_id, id=key_id))
    writer.close()
    assert {one.key_id: one.key_name for one in report(database, by=("key",))} == {
        ann.id: "Ann",
        "gone": None,
    }


def test_an_unknown_grouping_is_an_error(database: Database) -> None:
    with pytest.raises(ConfigError, match="by = 'week': known: key, model, day"):
        report(database, by=("week",))  # ty: ignore[invalid-argument-type]


def test_entries_arrive_in_time_and_as_they_were(database: Database) -> None:
    writer = UsageWriter(database)
    writer.add(ENTRY)
    deadline = time.monotonic() + 10
    while not count(database) and time.monotonic() < deadline:
        time.sleep(0.02)
    with database.reading() as connection:
        assert [dict(row) for row in connection.execute(text("SELECT * FROM usage")).mappings()] == [
            asdict(ENTRY)
        ]
    writer.close()


def test_many_threads_lose_nothing(database: Database) -> None:
    writer = UsageWriter(database, interval_s=0.01)

    def add() -> None:
        for _ in range(200):
            writer.add(replace(ENTRY, id=os.urandom(8).hex()))

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert count(database) == 1000


def test_an_entry_is_written_once_however_often_it_is_tried(database: Database) -> None:
    writer = UsageWriter(database)
    for _ in range(3):
        writer.add(ENTRY)
    writer.close()
    assert count(database) == 1


def test_a_database_that_was_away_gets_everything(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = UsageWriter(database, interval_s=0.01)
    insert, away = writer._insert, threading.Event()
    away.set()

    def fragile(entries: list[UsageEntry]) -> None:
        if away.is_set():
            raise OperationalError("INSERT", {}, Exception("the server closed the connection"))
        insert(entries)

    monkeypatch.setattr(writer, "_insert", fragile)
    monkeypatch.setattr(module, "MOST_WAITING", 20)
    for i in range(20):
        writer.add(replace(ENTRY, id=str(i)))
    deadline = time.monotonic() + 10
    while not writer.overdue and time.monotonic() < deadline:
        time.sleep(0.01)
    assert writer.overdue
    assert writer.full
    assert count(database) == 0
    away.clear()
    writer.close()
    assert not writer.overdue
    assert not writer.full
    assert count(database) == 20


def test_an_entry_that_the_database_does_not_take_holds_up_no_other(new_postgres: Callable[[], str]) -> None:
    database = Database.open(new_postgres())
    writer = UsageWriter(database)
    writer.add(replace(ENTRY, id="1"))
    writer.add(replace(ENTRY, id="2", request_id="a\x00b"))
    writer.add(replace(ENTRY, id="3"))
    writer.close()
    assert count(database) == 2
    database.close()


KILLED = """
import sys, time
from dataclasses import replace
from mohist.serve.database import Database
from mohist.serve.usage import UsageWriter
from tests.serve.test_usage import ENTRY
writer = UsageWriter(Database.open(sys.argv[1]))
print("ready", flush=True)
for i in range(10**6):
    writer.add(replace(ENTRY, at_ms=time.time_ns() // 1_000_000, id=str(i)))
    print(i, time.time_ns() // 1_000_000, flush=True)
    time.sleep(0.002)
"""


@pytest.mark.parametrize("run_s", [1.7])
def test_a_kill_loses_nothing_that_is_older_than_a_second(address: str, run_s: float) -> None:
    Database.open(address).close()
    child = subprocess.Popen([sys.executable, "-c", KILLED, address], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(run_s)
    child.send_signal(signal.SIGKILL)
    killed_ms = time.time_ns() // 1_000_000
    said = [line.split() for line in child.communicate()[0].splitlines() if line.count(" ") == 1]
    added = {id: int(at_ms) for id, at_ms in said}
    assert len(added) > 100, "the child was starved"
    database = Database.open(address)
    with database.reading() as connection:
        written = set(connection.execute(text("SELECT id FROM usage")).scalars())
    database.close()
    assert [id for id, at_ms in added.items() if at_ms < killed_ms - 1000 and id not in written] == []
    numbers = sorted(map(int, written))
    assert numbers == list(range(len(numbers))), "what is written has no gaps"


@pytest.mark.parametrize(
    ("prices", "tokens", "nano"),
    [
        (
            Prices(prompt_per_million=0.14, cached_per_million=0.0028, completion_per_million=0.28),
            (1000, 900, 50),
            30520,
        ),
        (Prices(prompt_per_million=0.0000005), (1, 0, 0), 0),
        (Prices(prompt_per_million=0.0000015), (1, 0, 0), 0),
        (Prices(prompt_per_million=0.0015), (1, 0, 0), 2),
        (Prices(prompt_per_million=0.0025), (1, 0, 0), 2),
        (Prices(machine_per_hour=7.0), (10**6, 0, 10**6), 0),
        (Prices(completion_per_million=0.1), (0, 0, 3 * 10**9), 3 * 10**11),
    ],
)
def test_costs_are_exact(prices: Prices, tokens: tuple[int, int, int], nano: int) -> None:
    prompt, cached, completion = tokens
    assert cost_nano(prices, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion) == nano


def test_costs_agree_with_the_ledgers() -> None:
    prices = Prices(prompt_per_million=1.74, cached_per_million=0.145, completion_per_million=3.48)
    tokens = {"prompt_tokens": 123_456, "cached_tokens": 23_456, "completion_tokens": 7_890}
    from mohist.cost import Cost

    assert cost_nano(prices, **tokens) == round(Decimal(Cost(**tokens).money(prices)) * 10**9)
