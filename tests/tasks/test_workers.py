"""Worker processes: bounded, without memory of what they did, and gone when they should be."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mohist.errors import ConfigError, TaskError
from mohist.tasks.sandbox import jail
from mohist.tasks.workers import OutOfLimits, WorkerLimits, Workers

SERVICE = "tests.tasks.service"
LIMITS = WorkerLimits(cpu_s=1, wall_s=30.0, memory_bytes=1 << 30)


@pytest.fixture
def service() -> Iterator[Workers]:
    pool = Workers(SERVICE, limits=LIMITS, setup=40)
    yield pool
    pool.close()


def children() -> list[int]:
    return [
        int(child)
        for path in Path("/proc/self/task").glob("*/children")
        for child in path.read_text().split()
    ]


def test_each_request_finds_what_start_left(service: Workers) -> None:
    assert [service.ask({"add": 2}) for _ in range(3)] == [42, 42, 42]


@pytest.mark.parametrize(
    ("request_", "limit"),
    [
        ({"loop": 1}, "more than 1 s of processor time"),
        ({"memory": 2 << 30}, "more than its memory: MemoryError"),
        ({"reply": 2 << 20}, "more than 1048576 bytes"),
        ({"abort": 1}, "more than its stack or memory: SIG"),
        ({"exit": 0}, "it ended itself, status 0"),
        ({"exit": 3}, "it ended itself, status 3"),
    ],
)
def test_what_takes_too_much_is_ended(request_: Any, limit: str, service: Workers) -> None:
    with pytest.raises(OutOfLimits, match=limit):
        service.ask(request_)
    assert service.ask({"add": 2}) == 42


def test_time_by_the_clock_is_bounded_too() -> None:
    pool = Workers(SERVICE, limits=WorkerLimits(wall_s=0.5), setup=40)
    with pytest.raises(OutOfLimits, match=r"more than 0\.5 s"):
        pool.ask({"sleep": 100})
    assert pool.ask({"add": 2}) == 42
    pool.close()


def test_an_error_is_an_error(service: Workers) -> None:
    with pytest.raises(TaskError, match="LookupError: no such thing"):
        service.ask({"raise": "no such thing"})
    assert service.ask({"add": 2}) == 42


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: seccomp is part of Linux")
def test_nothing_can_be_written_or_started(service: Workers, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Read-only file system"):
        service.ask({"write": str(tmp_path / "x")})
    with pytest.raises(TaskError, match="Function not implemented"):
        service.ask({"fork": 1})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setup", "kind", "message"),
    [
        ("a mistake", ConfigError, "task.base = 'a mistake'"),
        ("an error", TaskError, "ZeroDivisionError: no base"),
        ("an exit", TaskError, "a worker of tests.tasks.service died, status 3"),
    ],
)
def test_a_worker_that_cannot_start_says_why(setup: str, kind: type[Exception], message: str) -> None:
    pool = Workers(SERVICE, limits=LIMITS, setup=setup)
    for _ in range(3):
        with pytest.raises(kind, match=message):
            pool.ask({"add": 1})
    pool.close()


def test_threads_share_the_workers(service: Workers) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: service.ask({"add": number}), range(30)))
    assert answers == list(range(40, 70))


def test_closing_ends_the_processes() -> None:
    before = children()
    pool = Workers(SERVICE, limits=LIMITS, setup=0)
    assert pool.ask({"add": 1}) == 1
    assert len(children()) == len(before) + 1
    pool.close()
    assert children() == before


def test_workers_run_in_a_jail() -> None:
    if reason := jail.no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    pool = Workers("mohist.tasks.graders.regex", limits=LIMITS, jailed=True)
    start = time.monotonic()
    assert pool.ask({"pattern": "a+", "text": "aaa", "flags": 0}) is True
    with pytest.raises(OutOfLimits):
        pool.ask({"pattern": "(a|a)*b", "text": "a" * 60, "flags": 0})
    assert pool.ask({"pattern": "a+", "text": "b", "flags": 0}) is False
    pool.close()
    assert time.monotonic() - start < 30
