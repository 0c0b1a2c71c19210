"""What the machine can do, what it is, and how much of it others used while something was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

__all__ = ["Load", "Machine", "Ticks", "described", "load_between"]

BUFFER_VALUES = 1 << 26
"""256 MiB of float32: far more than any cache."""


class Machine:
    """Probes of memory and multiply-add units by PyTorch, so lower bounds of what the hardware can do."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._buffer = torch.ones(BUFFER_VALUES)
        self._vector = torch.ones(1 << 14)
        self._squares = [torch.ones(size, size) for size in (512, 1024, 1536)]

    def read_bytes_per_s(self) -> float:
        """Bytes read in a second, by the fastest of a sum, a dot product and a matrix-vector product."""
        matrix = self._buffer.view(-1, len(self._vector))
        low, high = self._buffer.chunk(2)
        runs: list[Callable[[], object]] = [
            self._buffer.sum,
            lambda: low @ high,
            lambda: matrix @ self._vector,
        ]
        return self._buffer.nbytes / min(seconds(run) for run in runs for _ in range(3))

    def flops_per_s(self) -> float:
        """Float32 multiplications and additions in a second: PyTorch's fastest square matrix product."""
        return max(
            2 * len(square) ** 3 / min(seconds(lambda square=square: square @ square) for _ in range(3))
            for square in self._squares
        )


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = perf_counter()
    work()
    return perf_counter() - start


@dataclass(frozen=True, slots=True)
class Ticks:
    """Processor time so far, in seconds of one core: all of it, what was used, stolen, and used by `pids`."""

    total: float
    used: float
    stolen: float
    own: float

    @classmethod
    def now(cls, *pids: int) -> Ticks:
        """Read Linux's counters; zeros elsewhere."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return cls(0, 0, 0, 0)
        per_s = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, wait, irq, softirq, steal = (
            int(x) / per_s for x in stat.read_text().split("\n", 1)[0].split()[1:9]
        )
        used = user + nice + system + irq + softirq
        own = sum(process_ticks(pid) for pid in {*pids, os.getpid()}) / per_s
        return cls(used + idle + wait + steal, used, steal, own)


def process_ticks(pid: int) -> int:
    """Clock ticks that a process and its ended children have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))


@dataclass(frozen=True, slots=True)
class Load:
    """Shares of the machine, 0 to 1, that were not ours."""

    others: float
    stolen: float

    def __str__(self) -> str:
        return (
            f"Meanwhile other processes used {self.others:.0%} of the machine, "
            f"and its host withheld {self.stolen:.0%}."
        )


def load_between(start: Ticks, end: Ticks) -> Load:
    """What others used between two readings."""
    total = end.total - start.total
    if total <= 0:
        return Load(0, 0)
    others = (end.used - start.used) - (end.own - start.own)
    return Load(max(0, others) / total, (end.stolen - start.stolen) / total)


def described() -> dict[str, str]:
    """The machine and the versions on it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    packages = ("torch", "transformers", "llama-cpp-python")
    return {
        "processor": models[0] if models else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "commit": commit(),
    }


def commit() -> str:
    """The commit of this checkout, with a plus when files have changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())
