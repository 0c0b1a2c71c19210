"""CPython in a jail: one process for the program, one for the tests, and this one between them."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from mohist.errors import TaskError
from mohist.tasks.sandbox.channel import Channel, Closed, Flood, Late
from mohist.tasks.sandbox.jail import jailed_python, no_jail
from mohist.tasks.sandbox.sandbox import Limits, Outcome, function_names

__all__ = ["Bubblewrap"]

GUEST = "from mohist.tasks.sandbox.guest import main; main()"
END_S = 5.0
"""Time for a process that closed its pipes to be gone, in seconds."""
KILLED = {128 + signal.SIGKILL: "processor time", 128 + signal.SIGSEGV: "stack or memory"}
"""What a jailed process ran out of when it ended with this status (a signal's number and 128)."""


class Bubblewrap:
    """Judges each program in two fresh jails. TaskError, with the reason, where there are none."""

    name = "bwrap"

    def __init__(self, limits: Limits) -> None:
        if reason := no_jail():
            raise TaskError(f"the sandbox bwrap cannot be used: {reason}")
        self._limits = limits
        self._command = jailed_python(GUEST)
        self._env = {"PATH": os.environ.get("PATH", os.defpath)}

    def judge(self, program: str, tests: str) -> Outcome:
        """See `Sandbox`."""
        limits = self._limits
        most = {"cpu_s": limits.cpu_s, "memory_bytes": limits.memory_bytes}
        request = {"tests": tests, "names": function_names(tests)}
        deadline_s = time.monotonic() + limits.wall_s
        with self._guest("the program") as program_side, self._guest("a test") as tests_side:
            try:
                program_side.send(_line({"program": program} | most), deadline_s=deadline_s)
                tests_side.send(_line(request | most), deadline_s=deadline_s)
                return converse(program_side, tests_side, deadline_s)
            except Late as late:
                return Outcome("limit", f"{late} took more than {limits.wall_s:g} s")
            except Flood as flood:
                return Outcome("limit", f"{flood} sent more than {limits.output_bytes} bytes")
            except Closed as closed:
                return ended(closed.channel)

    def close(self) -> None:
        """See `Sandbox`: nothing is kept running."""

    def _guest(self, name: str) -> Channel:
        return Channel(name, self._command, env=self._env, max_bytes=self._limits.output_bytes)


def converse(program: Channel, tests: Channel, deadline_s: float) -> Outcome:
    """Pass on lines until the tests have an outcome. What the program sends is read by nobody but them."""
    while True:
        tests.send(program.receive(deadline_s=deadline_s), deadline_s=deadline_s)
        line = tests.receive(deadline_s=deadline_s)
        message = json.loads(line)
        if "kind" in message:
            return Outcome(message["kind"], message["reason"])
        program.send(line, deadline_s=deadline_s)


def ended(channel: Channel) -> Outcome:
    """The outcome when one side is gone before the tests are through."""
    status = channel.status(within_s=END_S)
    if status in KILLED:
        return Outcome("limit", f"{channel.name} ran out of {KILLED[status]}")
    said = channel.last_words()
    reason = f"{channel.name} ended itself before the tests were through, status {status}"
    return Outcome("error", f"{reason}: {said:.200}" if said else reason)


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
