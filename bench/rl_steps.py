"""A training loop that goes one step ahead when it is told to, so that the steps of two can take turns."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

__all__ = ["LR", "MOST_STEPS", "Steps"]

MOST_STEPS = 100_000
"""More than anyone waits for."""
LR = 1e-6


class Steps:
    """A loop in a thread of its own. The loop calls `wait` before every step and `done` after it."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[None] = SimpleQueue()
        self._results: SimpleQueue[dict[str, float] | BaseException] = SimpleQueue()

    def begin(self, loop: Callable[[], object]) -> None:
        """Start the loop."""

        def run() -> None:
            try:
                loop()
            except BaseException as error:  # whoever calls `step` gets it
                self._results.put(error)

        threading.Thread(target=run, daemon=True).start()

    def step(self) -> dict[str, float]:
        """Let it take a step; the seconds of "all", "generation" and "training"."""
        self._orders.put(None)
        found = self._results.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def peak_bytes(self) -> int:
        """The largest memory that this process has had."""
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def wait(self) -> None:
        """Wait until a step is wanted."""
        self._orders.get()

    def done(self, seconds: float, generation: float) -> None:
        """A step is over."""
        self._results.put({"all": seconds, "generation": generation, "training": seconds - generation})
