"""What a sandbox promises: it judges a program by its tests, whatever the program does, within limits.

A program and its tests never share memory: the tests run beside the program and call its functions, and only
plain data (`mohist.tasks.sandbox.plain`) goes back and forth. So a program can end itself, patch built-ins or
return objects that claim to equal everything, and still passes only if its functions return what is expected.
"""

from __future__ import annotations

import ast
import builtins
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["Limits", "Outcome", "OutcomeKind", "Sandbox", "function_names"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a program, and beside it its tests, may use. Neither may make a process, a thread or a file."""

    cpu_s: int = 5
    """Processor time of each, in seconds."""
    wall_s: float = 30.0
    """Time by the clock until both are killed, in seconds."""
    memory_bytes: int = 512 << 20
    """Address space of each."""
    output_bytes: int = 1 << 20
    """What one may send to the other, in total. What a program prints is thrown away."""


OutcomeKind = Literal["passed", "failed", "limit", "error"]
"""The tests passed; a test failed; a limit was reached; or the program or its tests could not go on, which in
an interpreter other than CPython may be for want of a module or a feature."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program fared, and for people why."""

    kind: OutcomeKind
    reason: str = ""


class Sandbox(Protocol):
    """A place to run programs in. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """What it is, for people."""
        ...

    def judge(self, program: str, tests: str) -> Outcome:
        """Run `tests` against the functions of `program`. TaskError if the sandbox itself fails."""
        ...

    def close(self) -> None:
        """End what the sandbox keeps running."""
        ...


def function_names(tests: str) -> list[str]:
    """The names that `tests` use but do not define: the program's functions. SyntaxError if need be."""
    used, defined = set(), set(dir(builtins))
    for node in ast.walk(ast.parse(tests)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.alias(name=name, asname=asname):
                defined.add(asname or name.partition(".")[0])
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                defined.add(name)
            case ast.MatchMapping(rest=str(name)):
                defined.add(name)
    return sorted(used - defined)
