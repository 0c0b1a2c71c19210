"""A teacher for countdown with three numbers: it knows how to search and to judge, but has no patience.

Its thinking is a walk over first steps, each followed by its second steps, every result judged:

    5 * 2 → 10 + 3 → 13 no - 3 → 7 no * 3 → 30 no 5 + 3 → 8 + 2 → 10 no - 2 → 6 no * 2 → 16 yes

First steps come in a fixed order, from a place chosen at random, so a walk that is not given up meets every
combination once. Most walks are given up early, with the last combination as the answer, mostly a wrong one.
What is left for reinforcement learning is to find out that going on pays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, NamedTuple

from mohist.errors import ConfigError
from mohist.tasks.library.countdown import CountdownConfig
from mohist.types import Message, Problem

__all__ = ["TeacherConfig", "Trace", "guess", "teach", "vocabulary"]

_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
"""Which two of the three given numbers the first step combines, and which is left."""
_OPERATORS = "+-*"
_ARROW, _YES, _NO = "→", "yes", "no"


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Worked examples of an impatient searcher."""

    num_traces: int = 20_000
    """Examples, spread over the held-in problems."""
    patience: float = 0.25
    """Share of examples whose search goes on until it succeeds."""
    give_up: float = 0.6
    """In the others, the chance after each wrong result that it ends there."""
    intuition: float = 2.0
    """How many times likelier the search starts with a first step that can succeed than with another."""
    largest: int = 60
    """Results over this are not tried."""

    def __post_init__(self) -> None:
        checks = (
            ("num_traces", self.num_traces >= 1, "at least 1"),
            ("patience", 0 <= self.patience <= 1, "from 0 to 1"),
            ("give_up", 0 <= self.give_up <= 1, "from 0 to 1"),
            ("intuition", self.intuition > 0, "over 0"),
            ("largest", self.largest >= 1, "at least 1"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise ConfigError(f"teacher.{name} = {getattr(self, name)}: it must be {expected}")


class Trace(NamedTuple):
    """An example: what was thought, and what was answered, right or wrong."""

    reasoning: str
    answer: str

    def messages(self, problem: Problem) -> tuple[Message, ...]:
        """The conversation."""
        said = Message(role="assistant", reasoning=self.reasoning, content=self.answer)
        return (*problem.messages, said)


class _Step(NamedTuple):
    left: int
    operator: str
    right: int
    result: int

    @property
    def tail(self) -> str:
        """What follows `left`, which stands there already when this goes on from another step."""
        return f"{self.operator} {self.right} {_ARROW} {self.result}"


class _Branch(NamedTuple):
    first: _Step
    seconds: tuple[_Step, ...]


def vocabulary(task: CountdownConfig, teacher: TeacherConfig) -> list[str]:
    """Every word that problems and examples hold. ConfigError for a task that the teacher cannot do."""
    if task.num_numbers != 3 or set(task.operators) != set(_OPERATORS):
        raise ConfigError(
            f"task.num_numbers = {task.num_numbers}, task.operators = {list(task.operators)}: the teacher "
            f"knows three numbers and the operators {' '.join(_OPERATORS)}"
        )
    numbers = range(max(teacher.largest, task.largest, task.target[1]) + 1)
    asked = task.question.format(numbers="", operators="", target="").split()
    return [*_OPERATORS, "(", ")", _ARROW, _YES, _NO, *asked, *map(str, numbers)]


def teach(
    problems: Sequence[Problem], teacher: TeacherConfig, *, seed: int
) -> Iterator[tuple[Problem, Trace]]:
    """`num_traces` examples, going round the problems; each a function of its place and `seed`."""
    for index, problem in enumerate(itertools.islice(itertools.cycle(problems), teacher.num_traces)):
        yield problem, _trace(problem, teacher, Random(f"{seed} {index}"))


def guess(problem: Problem, rng: Random) -> str:
    """Some expression over the problem's numbers, whatever its value: what chance would answer."""
    a, b, c = rng.sample(problem.answer["numbers"], 3)
    first, second = rng.choice(_OPERATORS), rng.choice(_OPERATORS)
    return f"( {a} {first} {b} ) {second} {c}" if rng.random() < 0.5 else f"{c} {second} ( {a} {first} {b} )"


def _trace(problem: Problem, teacher: TeacherConfig, rng: Random) -> Trace:
    target = problem.answer["target"]
    branches = _branches(tuple(problem.answer["numbers"]), teacher.largest)
    odds = [teacher.intuition if any(s.result == target for s in b.seconds) else 1.0 for b in branches]
    (start,) = rng.choices(range(len(branches)), odds)
    give_up = 0.0 if rng.random() < teacher.patience else teacher.give_up
    words: list[str] = []
    for first, seconds in branches[start:] + branches[:start]:
        words.append(f"{first.left} {first.tail}")
        for second in seconds:
            right = second.result == target
            words.append(
                f"{second.operator} {second.right} {_ARROW} {second.result} {_YES if right else _NO}"
            )
            if right or rng.random() < give_up:
                return Trace(" ".join(words), _expression(first, second))
    return Trace(" ".join(words), _expression(first, second))


def _expression(first: _Step, second: _Step) -> str:
    inner = f"{first.left} {first.operator} {first.right}"
    bracketed = f"( {inner} )" if second.operator == "*" and first.operator != "*" else inner
    return f"{bracketed} {second.operator} {second.right}"


@cache
def _branches(numbers: tuple[int, ...], largest: int) -> tuple[_Branch, ...]:
    """All first steps in order with their second steps, results over `largest` or under 1 left out."""
    found: list[_Branch] = []
    for i, j, rest in _ORDERS:
        pair = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
        for first in _steps(*pair, largest):
            found.append(_Branch(first, _steps(first.result, numbers[rest], largest)))
    return tuple(found)


def _steps(left: int, right: int, largest: int) -> tuple[_Step, ...]:
    results: dict[str, Any] = {"+": left + right, "-": left - right, "*": left * right}
    return tuple(_Step(left, sign, right, n) for sign, n in results.items() if 1 <= n <= largest)
