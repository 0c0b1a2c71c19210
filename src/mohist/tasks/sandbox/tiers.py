"""Which sandbox there is: monty for all that it knows, CPython in bubblewrap for the rest, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from mohist.errors import TaskError
from mohist.tasks.sandbox.bubblewrap import Bubblewrap
from mohist.tasks.sandbox.monty import MontySandbox
from mohist.tasks.sandbox.sandbox import Limits, Outcome, Sandbox

__all__ = ["SandboxName", "Tiers", "open_sandbox"]

SandboxName = Literal["auto", "monty", "bwrap"]

_MAKERS: dict[SandboxName, Callable[[Limits], Sandbox]] = {"monty": MontySandbox, "bwrap": Bubblewrap}


class Tiers:
    """Asks one sandbox after another until one has an outcome other than an error.

    An error in monty may be for want of a module or a feature; CPython has the last word about it.
    """

    def __init__(self, sandboxes: list[Sandbox]) -> None:
        self._sandboxes = sandboxes

    @property
    def name(self) -> str:
        """See `Sandbox`."""
        return ", then ".join(sandbox.name for sandbox in self._sandboxes)

    def judge(self, program: str, tests: str) -> Outcome:
        """See `Sandbox`."""
        for sandbox in self._sandboxes[:-1]:
            outcome = sandbox.judge(program, tests)
            if outcome.kind != "error":
                return outcome
        return self._sandboxes[-1].judge(program, tests)

    def close(self) -> None:
        """See `Sandbox`."""
        for sandbox in self._sandboxes:
            sandbox.close()


def open_sandbox(name: SandboxName, limits: Limits) -> Sandbox:
    """The sandbox called `name`; "auto" is all that work here. TaskError, with the reasons, if none does."""
    if name != "auto":
        return _MAKERS[name](limits)
    sandboxes, refusals = [], []
    for make in _MAKERS.values():
        try:
            sandboxes.append(make(limits))
        except TaskError as error:
            refusals.append(str(error))
    if not sandboxes:
        raise TaskError("programs are run only where they are contained: " + "; ".join(refusals))
    return Tiers(sandboxes)
