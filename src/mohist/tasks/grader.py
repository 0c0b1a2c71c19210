"""What a grader is: the judge of answers to a user's own problems, chosen by name.

Each module in `mohist.tasks.graders` is one. Its `CONFIG` is a `GraderConfig` whose fields are the keys of
the grader's TOML table and whose `make` returns the `Grader`; nothing lists the modules.

    [task.grader]
    name = "numeric"
    relative_tolerance = 0.01
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from mohist.tasks import graders
from mohist.tasks.answers import Place
from mohist.tasks.scoring import Verdict

__all__ = ["Grader", "GraderConfig", "all_graders"]


class Grader(Protocol):
    """Judges answers against what a problem file says is right. Safe to use from several threads."""

    def fault(self, expected: Any) -> str | None:
        """What was expected instead of `expected`, a problem's answer, if that is none to grade by."""
        ...

    def judge(self, answer: str, expected: Any) -> Verdict:
        """Whether `answer` is right. It raises only if it cannot judge, never because of a bad answer."""
        ...

    def close(self) -> None:
        """End the processes that it keeps."""
        ...


@dataclass(frozen=True, kw_only=True)
class GraderConfig:
    """What every grader's table may say."""

    name: str
    """The grader: a module in mohist/tasks/graders."""

    places: ClassVar[tuple[Place, ...]] = ("boxed", "answer")
    """Where its answers are looked for unless the task says otherwise."""

    @classmethod
    def variants(cls) -> dict[str, type[GraderConfig]]:
        """The kinds of this section (see `mohist.config`)."""
        return all_graders()

    def make(self) -> Grader:
        """The grader. TaskError if it cannot be had: a missing package or sandbox."""
        raise NotImplementedError


def all_graders() -> dict[str, type[GraderConfig]]:
    """Every grader's config by the name of its module, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(graders.__path__))
    return {name: importlib.import_module(f"{graders.__name__}.{name}").CONFIG for name in names}
