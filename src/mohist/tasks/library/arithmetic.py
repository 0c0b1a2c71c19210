"""Arithmetic chains: what is 12 + 7 * 3 - 5?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from mohist.errors import ConfigError
from mohist.tasks.answers import Place
from mohist.tasks.expression import evaluate
from mohist.tasks.generated import GeneratedTask, fill_question
from mohist.tasks.numbers import parse_number
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.task import Task, TaskConfig
from mohist.types import Problem

__all__ = ["CONFIG", "ArithmeticConfig", "arithmetic_problem", "judge"]


@dataclass(frozen=True, kw_only=True)
class ArithmeticConfig(TaskConfig):
    """Chains of whole numbers with + - * and the usual precedence."""

    name: str = "arithmetic"
    extract: tuple[Place, ...] = ("boxed", "answer", "number")
    num_terms: tuple[int, int] = (2, 4)
    """Fewest and most numbers in a chain; from 2 to 50."""
    smallest: int = 1
    """Smallest number; at least 0."""
    largest: int = 99
    """Largest number."""
    operators: tuple[Literal["+", "-", "*"], ...] = ("+", "-", "*")
    """What may stand between the numbers."""
    question: str = "What is {expression}? Put the result in \\boxed{{}}."
    """How a problem is put; {expression} is filled in, and braces are doubled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks = (
            ("num_terms", 2 <= self.num_terms[0] <= self.num_terms[1] <= 50, "two numbers from 2 to 50"),
            ("smallest", self.smallest >= 0, "at least 0"),
            ("largest", self.smallest <= self.largest <= 10**6, "from smallest to 1000000"),
            ("operators", bool(self.operators), "at least one operator"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise ConfigError(f"task.{name} = {getattr(self, name)!r}: it must be {expected}")
        fill_question(self.question, expression="")

    def make(self) -> Task:
        """See `TaskConfig`."""
        return GeneratedTask(config=self, draw=self.draw, key=canonical, judge=judge)

    def draw(self, rng: Random) -> Problem:
        """A chain at random."""
        count = rng.randint(*self.num_terms)
        numbers = [rng.randint(self.smallest, self.largest) for _ in range(count)]
        return arithmetic_problem(self, numbers, [rng.choice(self.operators) for _ in range(count - 1)])


def arithmetic_problem(config: ArithmeticConfig, numbers: Sequence[int], operators: Sequence[str]) -> Problem:
    """The problem to compute `numbers` with `operators` between. Its answer: {"expression", "value"}."""
    words = [str(numbers[0])]
    for operator, number in zip(operators, numbers[1:], strict=True):
        words += [operator, str(number)]
    expression = " ".join(words)
    return Problem(
        id=expression,
        question=fill_question(config.question, expression=expression),
        answer={"expression": expression, "value": int(evaluate(expression).value)},
        system=config.system,
    )


def canonical(problem: Problem) -> str:
    """The products of the chain with sorted factors, sorted: 3 + 2 * 5 and 5 * 2 + 3 ask the same."""
    terms = []
    for product in problem.answer["expression"].replace("- ", "+ -").split("+ "):
        sign = "-" if product.startswith("-") else "+"
        factors = sorted(int(factor) for factor in product.lstrip("-").split("*"))
        terms.append(f"{sign}{'*'.join(map(str, factors))}")
    return " ".join(sorted(terms))


def judge(answer: str, expected: Mapping[str, Any]) -> Verdict:
    """Whether `answer` is the number that the chain makes."""
    value = parse_number(answer)
    if value is None:
        return wrong(f"not a number: {answer!r:.80}")
    return RIGHT if value == expected["value"] else wrong(f"{value}, not {expected['value']}")


CONFIG = ArithmeticConfig
