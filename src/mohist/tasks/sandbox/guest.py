"""What runs inside the jail: the program's side or the tests' side of a judgement. Standard library only.

Both read lines of JSON from the host and write lines to it, and the host only passes them on:

    host -> program   {"program": SOURCE}            program -> tests   {"ready": true} or {"raised": ...}
    host -> tests     {"tests": SOURCE, "names": [...]}
    tests -> program  {"call": NAME, "args": [...], "kwargs": {...}}
    program -> tests  {"value": ...} or {"raised": [TYPE, MESSAGE]}
    tests -> host     {"kind": OUTCOME, "reason": TEXT}

Before anything foreign runs, the process confines itself: resource limits, then no system call that reaches
beyond it (`mohist.tasks.sandbox.seccomp`).
"""

from __future__ import annotations

import builtins
import json
import os
import resource
from collections.abc import Callable
from typing import Any, BinaryIO

from mohist.tasks.sandbox import plain, seccomp

__all__ = ["confine", "main"]

MAX_REASON = 300
"""Characters of an error's message that are passed on."""


def main() -> None:
    """Play the side that the first line asks for, confined to the limits that are on it."""
    host = Host()
    request = host.read()
    confine(cpu_s=request["cpu_s"], memory_bytes=request["memory_bytes"])
    if "program" in request:
        serve(host, request["program"])
    else:
        host.write(run_tests(host, request["tests"], request["names"]))


def confine(*, cpu_s: int, memory_bytes: int, system_calls: bool = True) -> None:
    """Give up, for good, what no program here needs. OSError if the system does not allow that.

    Without `system_calls` there are only the limits, which is no jail.
    """
    limits = {
        resource.RLIMIT_CPU: cpu_s,  # soft equals hard: the kernel kills, and nothing can catch that
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in limits.items():
        resource.setrlimit(which, (most, most))
    if system_calls:
        seccomp.forbid_the_rest()


class Host:
    """The pipes to the host, out of the way of what a program prints, which goes nowhere."""

    def __init__(self) -> None:
        self._incoming: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._outgoing: BinaryIO = os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)

    def read(self) -> Any:
        """The next line. EOFError once the host is gone."""
        line = self._incoming.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def leave(self) -> None:
        """Close the pipes, so that a fork has no part in the conversation."""
        self._incoming.close()
        self._outgoing.close()

    def write(self, message: Any) -> None:
        """Send one line. TypeError or ValueError, with nothing sent, if JSON cannot hold `message`."""
        line = json.dumps(message).encode() + b"\n"
        self._outgoing.write(line)
        self._outgoing.flush()


def serve(host: Host, source: str) -> None:
    """The program's side: run `source`, then call its functions as asked until the host leaves."""
    namespace: dict[str, Any] = {"__name__": "program"}

    def start() -> Any:
        exec(compile(source, "program", "exec"), namespace)
        return True

    def call() -> Any:
        if not callable(namespace.get(request["call"])):
            raise NameError(f"the program defines no function {request['call']}")
        args, kwargs = (plain.decode(request[kind]) for kind in ("args", "kwargs"))
        return plain.encode(namespace[request["call"]](*args, **kwargs))

    answer(host, "ready", start)
    while True:
        try:
            request = host.read()
        except EOFError:
            return
        answer(host, "value", call)


def answer(host: Host, key: str, work: Callable[[], Any]) -> None:
    """Send what `work` returns or raises: any exception of a program, even one that would end it."""
    try:
        host.write({key: work()})
    except BaseException as error:
        host.write({"raised": describe(error)})


def describe(error: BaseException) -> list[str]:
    """Name of the type and message, as far as they can be had from an exception that a program made."""
    try:
        message = str(error)
    except BaseException:
        message = "its message cannot be had"
    return [type(error).__name__, message[:MAX_REASON]]


class Over(BaseException):
    """The judgement is over before the tests are through. Tests cannot catch it by accident."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(kind, reason)
        self.outcome = {"kind": kind, "reason": reason}


class Function:
    """Stands for a function of the program in the tests."""

    def __init__(self, host: Host, name: str) -> None:
        self._host, self._name = host, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function of the program returns or raises."""
        encoded = {"args": plain.encode(args), "kwargs": plain.encode(kwargs)}
        self._host.write({"call": self._name} | encoded)
        try:
            reply = self._host.read()
            if "raised" in reply:
                kind, message = map(str, reply["raised"])
            else:
                return plain.decode(reply["value"])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise Over("error", f"{self._name} gave an answer that is not plain data") from error
        raise exception_like(kind, message)


def exception_like(kind: str, message: str) -> BaseException:
    """The built-in exception of that name, or what ends the judgement if tests are not to see it."""
    known = getattr(builtins, kind, None)
    if not (isinstance(known, type) and issubclass(known, Exception)) or known is AssertionError:
        return Over("error", f"the program raised {kind}: {message}"[:MAX_REASON])
    try:
        return known(message)
    except TypeError:  # such as UnicodeDecodeError, which wants more than a message
        return Exception(message)


def run_tests(host: Host, source: str, names: list[str]) -> dict[str, str]:
    """The tests' side: the outcome of running `source` with the program's functions."""
    started = host.read()
    if "raised" in started:
        return {"kind": "error", "reason": "the program raised " + ": ".join(map(str, started["raised"]))}
    namespace: dict[str, Any] = {"__name__": "tests"} | {name: Function(host, name) for name in names}
    try:
        exec(compile(source, "tests", "exec"), namespace)
    except Over as over:
        return over.outcome
    except AssertionError as error:
        return {"kind": "failed", "reason": f"a test failed{where(error, source)}: {describe(error)[1]}"}
    except BaseException as error:
        return {
            "kind": "error",
            "reason": f"a test raised {': '.join(describe(error))}{where(error, source)}",
        }
    return {"kind": "passed", "reason": ""}


def where(error: BaseException, source: str) -> str:
    """The line of the tests in which `error` came up."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "tests":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" in line {line}, `{source.splitlines()[line - 1].strip()[:MAX_REASON]}`" if line else ""
