"""The child's side of `mohist.tasks.workers`: answers requests with one module's `handle`, each in a fork.

A module that serves defines `start(setup) -> state`, which imports what takes long and tries it out, and
`handle(state, request) -> reply`; setup, requests and replies are plain JSON. Whatever happens to a fork, the
next request finds the state as `start` left it.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, cast

from mohist.errors import ConfigError
from mohist.tasks.sandbox import seccomp
from mohist.tasks.sandbox.guest import Host, confine

__all__ = ["Service", "main"]

MOST_REPLY_BYTES = 1 << 20


class Service(Protocol):
    """What a module that serves defines."""

    def start(self, setup: Any) -> Any:
        """Import what takes long, and try it out. ConfigError if the user's `setup` is at fault."""
        ...

    def handle(self, state: Any, request: Any) -> Any:
        """The reply to one request. Any exception is an error of the machinery, not of an answer."""
        ...


def main(module: str, setup: Any) -> None:
    """Serve until the host leaves. A message: {"request", "cpu_s", "wall_s", "memory_bytes"}."""
    host = Host()
    # A fork has the one thread that forked; threads of a numerical library would only be missing in it.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    try:
        service = cast(Service, importlib.import_module(module))
        state = service.start(setup)
    except ConfigError as error:
        host.write({"mistake": str(error)})
        return
    except Exception:
        host.write({"error": traceback.format_exc(limit=-3)})
        return
    host.write({"ready": True})
    while True:
        try:
            message = host.read()
        except EOFError:
            return
        work = partial(service.handle, state, message["request"])
        host.write(_reply(host, work, message["cpu_s"], message["wall_s"], message["memory_bytes"]))


def _reply(host: Host, work: Callable[[], Any], cpu_s: int, wall_s: float, memory_bytes: int) -> Any:
    """What a fork makes of `work`: {"value": ...}, {"limit": TEXT} or {"error": TEXT}."""
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        host.leave()
        os.close(incoming)
        with os.fdopen(outgoing, "wb") as pipe:
            pipe.write(_confined(work, cpu_s, wall_s, memory_bytes))
        os._exit(0)
    os.close(outgoing)
    with os.fdopen(incoming, "rb") as pipe:
        reply = pipe.read(MOST_REPLY_BYTES)
    _, status = os.waitpid(child, 0)
    if len(reply) == MOST_REPLY_BYTES:
        return {"limit": f"more than {MOST_REPLY_BYTES} bytes"}
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        spent = {"SIGKILL": f"{cpu_s} s of processor time", "SIGALRM": f"{wall_s:g} s"}
        return {"limit": f"more than {spent.get(name, f'its stack or memory: {name}')}"}
    try:
        return json.loads(reply)
    except ValueError:
        return {"limit": f"more than it may: it ended itself, status {os.WEXITSTATUS(status)}"}


def _confined(work: Callable[[], Any], cpu_s: int, wall_s: float, memory_bytes: int) -> bytes:
    """What `work` returns or raises, as JSON."""
    signal.setitimer(signal.ITIMER_REAL, wall_s)  # nobody handles SIGALRM, so it kills
    try:
        confine(cpu_s=cpu_s, memory_bytes=memory_bytes, system_calls=seccomp.unsupported() is None)
        return json.dumps({"value": work()}).encode()
    except (MemoryError, RecursionError) as error:
        return json.dumps({"limit": f"more than its memory: {type(error).__name__}"}).encode()
    except Exception:
        return json.dumps({"error": traceback.format_exc(limit=-3)}).encode()
