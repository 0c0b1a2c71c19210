"""Generated problems, held-in and held-out, disjoint by construction: a hash of what is asked decides."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from mohist.errors import ConfigError
from mohist.tasks.scoring import Judge, grade_message
from mohist.tasks.task import Split, TaskConfig
from mohist.types import Grade, Message, Problem

__all__ = ["GeneratedTask", "draw_distinct", "fill_question", "split_of_key"]

MOST_MISSES = 20_000
"""Draws in a row without a new problem after which a generator counts as exhausted."""


def split_of_key(key: str, test_fraction: float) -> Split:
    """The split of every problem with this canonical form, in every run and on every machine."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "little") < test_fraction * 2**64 else "train"


def fill_question(template: str, **values: Any) -> str:
    """The question that a config's template asks about these values. ConfigError if it asks about others."""
    try:
        return template.format(**values)
    except (LookupError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values)
        raise ConfigError(f"task.question = {template!r}: {error}; it may hold {known}") from error


def draw_distinct(
    draw: Callable[[int], Problem | None], key: Callable[[Problem], str], count: int, where: str
) -> list[Problem]:
    """The first `count` problems with different keys among draw(0), draw(1), ...; None is passed over.

    ConfigError, which says that `where` has too few, after MOST_MISSES draws in a row without a new one.
    """
    found: dict[str, Problem] = {}
    index = last = 0
    while len(found) < count:
        problem = draw(index)
        index += 1
        if problem is not None and key(problem) not in found:
            found[key(problem)] = problem
            last = index
        elif index - last >= MOST_MISSES:
            raise ConfigError(
                f"{where}: {count} different problems were asked for and only {len(found)} found; "
                f"ask for fewer or widen the ranges of [task]"
            )
    return list(found.values())


@dataclass(frozen=True, kw_only=True)
class GeneratedTask:
    """A `Task` without an end of problems, made of three functions."""

    config: TaskConfig
    draw: Callable[[Random], Problem | None]
    """One problem at random; None if this draw came to nothing."""
    key: Callable[[Problem], str]
    """The canonical form of a problem: equal for all problems that ask the same."""
    judge: Judge

    @property
    def name(self) -> str:
        """See `Task`."""
        return self.config.name

    def problems(self, split: Split, count: int, *, seed: int = 0) -> list[Problem]:
        """See `Task`."""
        rng = Random(f"{self.name} {seed}")

        def draw(_index: int) -> Problem | None:
            problem = self.draw(rng)
            return problem if problem is not None and self.split_of(problem) == split else None

        return draw_distinct(draw, self.key, count, f"task {self.name}, split {split}")

    def split_of(self, problem: Problem) -> Split:
        """See `Task`."""
        return split_of_key(self.key(problem), self.config.test_fraction)

    def size(self, split: Split) -> int | None:
        """See `Task`: nobody counts what a generator could make."""
        return None

    def grade(self, problem: Problem, message: Message) -> Grade:
        """See `Task`."""
        return grade_message(self.config, problem, message, self.judge)

    def close(self) -> None:
        """See `Task`: there is nothing to end."""
