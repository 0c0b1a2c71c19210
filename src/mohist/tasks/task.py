"""What a task is: where problems come from, and the one judge of their answers in training and evaluation.

Each module in `mohist.tasks.library` is a task. Its `CONFIG` is a `TaskConfig` whose fields are the keys of
the task's TOML table and whose `make` returns the `Task`; nothing lists the modules.

    [task]
    name = "countdown"
    num_numbers = 4
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Literal, Protocol

from mohist.errors import ConfigError
from mohist.tasks import library
from mohist.tasks.answers import Place
from mohist.tasks.language import Language
from mohist.types import Grade, Message, Problem

__all__ = ["Split", "Task", "TaskConfig", "all_tasks"]

Split = Literal["train", "test"]
"""Held-in problems, which training may use, and held-out ones, which only evaluation sees."""


class Task(Protocol):
    """Problems in two splits that have none in common, and their grader. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """The name of its module in the library."""
        ...

    def problems(self, split: Split, count: int, *, seed: int = 0) -> list[Problem]:
        """`count` different problems of `split`: a function of the task's config and these arguments.

        A smaller count gives the first of them. ConfigError if the split has fewer.
        """
        ...

    def split_of(self, problem: Problem) -> Split:
        """The split that `problem` is in, found out from the problem alone."""
        ...

    def size(self, split: Split) -> int | None:
        """How many problems `split` has, if that is known: `problems` with this count is an epoch."""
        ...

    def grade(self, problem: Problem, message: Message) -> Grade:
        """Judge the answer `message`. TaskError if the grader fails, which is never a reward of 0."""
        ...

    def close(self) -> None:
        """End the processes that graders keep. The task is not used afterwards."""
        ...


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What every task's table may say. Reward = accuracy + weighted format + weighted language."""

    name: str
    """The task: a module in mohist/tasks/library."""
    system: str = ""
    """Instructions before each question; empty for none."""
    test_fraction: float = 0.2
    """Share of all problems that is held out, chosen by a hash of the problem; in (0, 1)."""
    extract: tuple[Place, ...] = ("boxed",)
    """Where the answer is looked for, in this order. Only the first place counts as the right format."""
    format_weight: float = 0.0
    """Reward for an answer in the first of the places, whether right or wrong."""
    language: Language | None = None
    """The language that thinking and answer should be in; none does not look."""
    language_weight: float = 0.0
    """Reward for an answer wholly in that language; half of it for one that is half in it."""

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"task.test_fraction = {self.test_fraction}: it must be in (0, 1)")
        # A task whose default is empty has places of its own.
        if not self.extract and type(self).extract:
            raise ConfigError("task.extract is empty: name at least one place, such as boxed")
        if self.language_weight and self.language is None:
            raise ConfigError(f"task.language_weight = {self.language_weight}: it needs task.language")

    @classmethod
    def variants(cls) -> dict[str, type[TaskConfig]]:
        """The kinds of this section (see `mohist.config`)."""
        return all_tasks()

    def make(self) -> Task:
        """The task. ConfigError or TaskError if it cannot be had: a bad file, no package, no sandbox."""
        raise NotImplementedError


def all_tasks() -> dict[str, type[TaskConfig]]:
    """Every task's config by the name of its module, in alphabetical order."""
    names = sorted(module.name for module in pkgutil.iter_modules(library.__path__))
    return {name: importlib.import_module(f"{library.__name__}.{name}").CONFIG for name in names}
