"""One stream beside a busy process: a second thread must not cost more than it brings."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from bench.decode import rate
from bench.measure import Run, alternate, ratio_goal
from bench.report import Report, series_table
from bench.work import DECODE_TOKENS
from bench.workers import Crew

__all__ = ["REPEATS", "run"]

REPEATS = 7
FORMATS = ("q4_1", "q8_0", "f32")


def run(crew: Crew, repeats: int) -> Report:
    """Mohist with 1 and 2 threads, alone and beside an endless loop in Python."""
    workers = [crew.worker("Mohist", format, threads) for format in FORMATS for threads in (1, 2)]
    runs: dict[str, Run] = {
        f"{w.spec.name}, {w.spec.threads} thread{'s' * (w.spec.threads > 1)}": partial(rate, w)
        for w in workers
    }
    alone = alternate(runs, repeats, crew.ticks)
    with busy_process() as busy:
        beside = alternate(runs, repeats, lambda: crew.ticks(busy.pid))
    series = [
        dataclasses.replace(one, name=f"{name}, {where}")
        for where, rows in (("alone", alone), ("beside a busy process", beside))
        for name, one in rows.items()
    ]
    pairs = [crew.worker("Mohist", format, 1).spec.name for format in FORMATS]
    return Report(
        title="One stream beside a busy process",
        tables=[series_table("", series, "tokens/s")],
        goals=[
            ratio_goal(
                f"{name}: 2 threads / 1 thread",
                beside[f"{name}, 2 threads"],
                beside[f"{name}, 1 thread"],
                0.9,
            )
            for name in pairs
        ],
        notes=[
            f"{DECODE_TOKENS} greedy tokens a run. The busy process is an endless loop in Python, not pinned."
        ],
        data={one.name: one for one in series},
    )


@contextmanager
def busy_process() -> Generator[subprocess.Popen[bytes]]:
    """A process that takes a core for as long as the block lasts."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        yield process
    finally:
        process.kill()
        process.wait()
