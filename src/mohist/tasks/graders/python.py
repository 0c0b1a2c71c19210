"""A Python program that passes unit tests. It runs in a sandbox, apart from its tests, or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mohist.errors import ConfigError
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.sandbox.sandbox import Limits, Sandbox, function_names
from mohist.tasks.sandbox.tiers import SandboxName, open_sandbox
from mohist.tasks.scoring import RIGHT, Verdict, wrong

__all__ = ["CONFIG", "PythonConfig"]


@dataclass(frozen=True, kw_only=True)
class PythonConfig(GraderConfig):
    """Tests are assertions about functions of the program.

    Only plain data passes between the two: numbers, texts, bytes, None, lists, tuples, sets and dicts. What a
    function does to its arguments stays with it.
    """

    name: str = "python"
    sandbox: SandboxName = "auto"
    """monty, a part of Python on every system; bwrap, all of it on Linux; auto, the one, then the other."""
    cpu_s: int = 5
    """Processor time of a program, and of its tests, in seconds."""
    wall_s: float = 30.0
    """Time by the clock of both, in seconds."""
    memory_mb: int = 512
    """Memory of each, in units of 2**20 bytes; monty takes 128 at most."""

    places = ("code", "whole")

    def __post_init__(self) -> None:
        for name, least in (("cpu_s", 1), ("wall_s", 1), ("memory_mb", 64)):
            if not getattr(self, name) >= least:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least {least}")

    def make(self) -> Grader:
        """See `GraderConfig`."""
        limits = Limits(cpu_s=self.cpu_s, wall_s=self.wall_s, memory_bytes=self.memory_mb << 20)
        return Python(open_sandbox(self.sandbox, limits))


class Python:
    """Expects tests: Python source that calls the program's functions."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        if not isinstance(expected, str):
            return "tests, which are Python source in a text"
        try:
            names = function_names(expected)
        except (SyntaxError, ValueError) as error:
            return f"tests that are Python; these fail: {error}"
        return None if names else "tests that call a function of the program"

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        outcome = self._sandbox.judge(answer, expected)
        return RIGHT if outcome.kind == "passed" else wrong(outcome.reason)

    def close(self) -> None:
        """See `Grader`."""
        self._sandbox.close()


CONFIG = PythonConfig
