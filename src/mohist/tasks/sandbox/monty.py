"""Monty (https://github.com/pydantic/monty): an interpreter of a part of Python, by design without a way out.

Program and tests run in a session each, both in worker processes of the pool. Works on every system that
pydantic-monty has wheels for; knows no generators, no inheritance, and only some modules.
"""

from __future__ import annotations

import builtins
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mohist.errors import TaskError
from mohist.tasks.sandbox.sandbox import Limits, Outcome, function_names

if TYPE_CHECKING:
    from pydantic_monty import CollectString, MontyError, MontySession

__all__ = ["MontySandbox"]

AT_ONCE = 2
"""Programs judged at once."""
MAX_CALLS = 20_000
"""Calls of the program's functions that tests may make."""
MAX_REASON = 300
"""Characters of an error's message that are kept."""
MOST_MEMORY_BYTES = 128 << 20
"""What a session may hold, whatever the limits say: a value that it returns is held by this process too."""
SCALARS = (type(None), bool, int, float, str, bytes)
CONTAINERS = (list, tuple, set, frozenset)
SEEN = tuple(
    kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)
)
"""Exceptions of the program that tests get to see."""


class MontySandbox:
    """Judges programs in a pool of monty's processes, which `close` ends."""

    name = "monty"

    def __init__(self, limits: Limits) -> None:
        try:
            import pydantic_monty
        except ImportError as error:
            raise TaskError(
                "the sandbox monty cannot be used: its package is missing; pip install 'mohist[tasks]'"
            ) from error
        self._monty = pydantic_monty
        self._limits = limits
        # A judgement needs two workers; with as many pairs as judgements, none waits for half of another's.
        self._free = threading.Semaphore(AT_ONCE)
        self._pool = pydantic_monty.Monty(max_processes=2 * AT_ONCE, request_timeout=limits.wall_s)
        self._pool.__enter__()

    def judge(self, program: str, tests: str) -> Outcome:
        """See `Sandbox`."""
        names = function_names(tests)
        with self._free, self._session() as program_side, self._session() as tests_side:
            try:
                self._feed(program_side, program)
            except self._monty.MontyError as error:
                return self._outcome("the program", error)
            stopped: list[Outcome] = []
            deadline_s = time.monotonic() + self._limits.wall_s
            functions = {name: self._function(name, program_side, stopped, deadline_s) for name in names}
            try:
                self._feed(tests_side, tests, functions)
            except self._monty.MontyError as error:
                return stopped[0] if stopped else self._outcome("a test", error)
        return stopped[0] if stopped else Outcome("passed")

    def close(self) -> None:
        """See `Sandbox`."""
        self._pool.__exit__(None, None, None)

    def _session(self) -> MontySession:
        """A worker to itself: no files, no clock to wait for, the same random numbers every time."""
        return self._pool.checkout(
            limits={
                "max_feed_duration_secs": float(self._limits.cpu_s),
                "max_memory": min(self._limits.memory_bytes, MOST_MEMORY_BYTES),
                "max_suspensions": MAX_CALLS,
            },
            os_policy={"sleep": "zero", "random_start": {"seed": 0}},
        )

    def _feed(self, session: MontySession, source: str, functions: dict[str, Any] | None = None) -> None:
        """Run `source` for what it does. Its last value is None: what a program leaves there stays there."""
        session.feed_run(f"{source}\nNone", external_lookup=functions, print_callback=self._nowhere())

    def _nowhere(self) -> CollectString:
        return self._monty.CollectString(max_bytes=self._limits.output_bytes)

    def _function(
        self, name: str, session: MontySession, stopped: list[Outcome], deadline_s: float
    ) -> Callable[..., Any]:
        """Stands for the program's function `name` in the tests. What ends the tests goes to `stopped`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            # The clocks of the sessions stop while one waits for the other; this one does not.
            if time.monotonic() > deadline_s:
                stopped.append(Outcome("limit", f"the tests took more than {self._limits.wall_s:g} s"))
                raise TimeoutError
            try:
                value = session.feed_run(
                    f"{name}(*args__, **kwargs__)",
                    inputs={"args__": args, "kwargs__": kwargs},
                    print_callback=self._nowhere(),
                )
            except self._monty.MontyError as error:
                outcome, inner = self._outcome("the program", error), error.exception()
                if outcome.kind == "limit" or isinstance(inner, AssertionError) or type(inner) not in SEEN:
                    stopped.append(Outcome("limit" if outcome.kind == "limit" else "error", outcome.reason))
                raise inner from error
            except (ValueError, OverflowError, RecursionError) as error:
                stopped.append(Outcome("error", f"{name} returned what cannot be passed on: {error}"))
                raise
            if not is_plain(value):
                stopped.append(Outcome("error", f"{name} returned {type(value).__name__}, not plain data"))
            return value

        return call

    def _outcome(self, who: str, error: MontyError) -> Outcome:
        """What it means that `who` was stopped by `error`."""
        if isinstance(error, self._monty.MontyCrashedError):
            why = "took too long" if error.timed_out else "broke the interpreter"
            return Outcome("limit", f"{who} {why}")
        inner, message = error.exception(), str(error)[:MAX_REASON]
        if isinstance(inner, (TimeoutError, MemoryError)) and "limit exceeded" in message:
            return Outcome("limit", f"{who}: {message}")
        if isinstance(inner, AssertionError):
            return Outcome("failed", f"{who} failed: {message}")
        return Outcome("error", f"{who} raised {message}")


def is_plain(value: Any) -> bool:
    """Whether `value` is made of built-in types only; shared and cyclic parts are looked at once."""
    seen: dict[int, Any] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) in SCALARS or id(item) in seen:
            continue
        seen[id(item)] = item
        if type(item) is dict:
            waiting += item.keys()
            waiting += item.values()
        elif type(item) in CONTAINERS:
            waiting += item
        else:
            return False
    return True
