"""Processes that judge what may hang, crash or be attacked: each request is bounded, and so is the wait.

The processes stay, since importing what they need takes seconds; each request is answered by a fork of one
(`mohist.tasks.worker`). The kernel ends a fork that takes too much; should that fail, the whole process is
killed here, and the next request starts another.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mohist.errors import ConfigError, TaskError
from mohist.tasks.sandbox.channel import Channel, Closed, Late
from mohist.tasks.sandbox.jail import PACKAGE, jailed_python

__all__ = ["OutOfLimits", "WorkerLimits", "Workers"]

SCRATCH_BYTES = 16 << 20
"""What packages may write in a jail while they are imported; later there is no writing."""
START_S = 120.0
"""Time for a worker to import what it needs, in seconds."""
GRACE_S = 5.0
"""Time after its limit for a fork to be gone, in seconds."""


class OutOfLimits(Exception):
    """A request took more than it may; the message says of what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerLimits:
    """What one request may use."""

    cpu_s: int = 5
    """Processor time, in seconds."""
    wall_s: float = 60.0
    """Time by the clock, in seconds."""
    memory_bytes: int = 2 << 30
    """Address space, what the worker imported included."""


class Workers:
    """At most `size` processes that serve `module`, started when first needed. Safe from several threads."""

    def __init__(
        self, module: str, *, limits: WorkerLimits, setup: Any = None, size: int = 2, jailed: bool = False
    ) -> None:
        """`setup` is for the module's `start`. A jail for `jailed` workers must be known to work."""
        self._module, self._limits, self._setup = module, limits, setup
        self._jailed, self._size = jailed, size
        self._idle: queue.LifoQueue[Channel | None] = queue.LifoQueue()
        for _ in range(size):
            self._idle.put(None)

    def ask(self, request: Any, *, limits: WorkerLimits | None = None) -> Any:
        """The module's reply within `limits`, or those of all requests.

        Raises OutOfLimits, ConfigError for a wrong setup, or TaskError if the module fails.
        """
        worker = self._idle.get()
        try:
            worker = worker or self._start()
            reply = _exchange(worker, request, limits or self._limits)
        except BaseException:
            if worker is not None:
                worker.close()
            worker = None
            raise
        finally:
            self._idle.put(worker)
        if "limit" in reply:
            raise OutOfLimits(reply["limit"])
        return reply["value"]

    def close(self) -> None:
        """End the processes, once they have answered what they were asked."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.close()

    def _start(self) -> Channel:
        """A worker that has imported what it needs."""
        code = f"from mohist.tasks.worker import main; main({self._module!r}, {self._setup!r})"
        if self._jailed:
            packages = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
            command = jailed_python(code, packages=sorted(packages), scratch_bytes=SCRATCH_BYTES)
        else:
            command = [sys.executable, "-P", "-c", code]
        # Without a jail, a worker imports from where this process does.
        paths = [str(PACKAGE.parent), *filter(None, sys.path)]
        env = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": os.pathsep.join(paths)}
        worker = Channel(f"a worker of {self._module}", command, env=env)
        try:
            _receive(worker, time.monotonic() + START_S)
        except BaseException as error:
            worker.close()
            if isinstance(error, Late):
                raise TaskError(f"{worker.name} did not start within {START_S:g} s") from None
            raise
        return worker


def _exchange(worker: Channel, request: Any, limits: WorkerLimits) -> dict[str, Any]:
    """The reply to one request, from the process that forks for it, or none in time."""
    within_s = limits.wall_s + GRACE_S
    deadline_s = time.monotonic() + within_s
    try:
        message = {"request": request} | asdict(limits)
        worker.send(json.dumps(message).encode() + b"\n", deadline_s=deadline_s)
        return _receive(worker, deadline_s)
    except Late:
        raise OutOfLimits(f"more than {within_s:g} s") from None


def _receive(worker: Channel, deadline_s: float) -> dict[str, Any]:
    """The worker's next message. Raises Late, or what it tells of, or TaskError if it died."""
    try:
        message = json.loads(worker.receive(deadline_s=deadline_s))
    except Closed:
        status = worker.status(within_s=GRACE_S)
        raise TaskError(f"{worker.name} died, status {status}: {worker.last_words() or 'no word'}") from None
    if "mistake" in message:
        raise ConfigError(message["mistake"])
    if "error" in message:
        raise TaskError(f"{worker.name} failed: {message['error']}")
    return message
