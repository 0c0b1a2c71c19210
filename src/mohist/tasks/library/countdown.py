"""Countdown: combine all given numbers, each once, into an expression whose value is the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any, Literal

from mohist.errors import ConfigError
from mohist.tasks.answers import Place
from mohist.tasks.expression import ExpressionError, apply_operator, evaluate
from mohist.tasks.generated import GeneratedTask, fill_question
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.task import Task, TaskConfig
from mohist.types import Problem

__all__ = ["CONFIG", "CountdownConfig", "countdown_problem", "judge"]

Operator = Literal["+", "-", "*", "/"]


@dataclass(frozen=True, kw_only=True)
class CountdownConfig(TaskConfig):
    """Numbers, a target, and an expression to find. Every problem has a solution."""

    name: str = "countdown"
    extract: tuple[Place, ...] = ("boxed", "answer")
    num_numbers: int = 4
    """How many numbers a problem gives; 2 to 8."""
    smallest: int = 1
    """Smallest number given; at least 1."""
    largest: int = 9
    """Largest number given."""
    target: tuple[int, int] = (1, 100)
    """Smallest and largest target."""
    operators: tuple[Operator, ...] = ("+", "-", "*", "/")
    """What may connect the numbers; / is exact division, fractions on the way are fine."""
    question: str = (
        "Use each of the numbers {numbers} exactly once, with {operators} and parentheses, to make {target}. "
        "Put the expression in \\boxed{{}}."
    )
    """How a problem is put; {numbers}, {operators} and {target} are filled in, and braces are doubled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks = (
            ("num_numbers", 2 <= self.num_numbers <= 8, "2 to 8"),
            ("smallest", self.smallest >= 1, "at least 1"),
            ("largest", self.smallest <= self.largest <= 10**6, "from smallest to 1000000"),
            ("target", self.target[0] <= self.target[1], "a smaller and a larger number"),
            ("operators", bool(self.operators), "at least one operator"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise ConfigError(f"task.{name} = {getattr(self, name)!r}: it must be {expected}")
        fill_question(self.question, numbers="", operators="", target="")

    def make(self) -> Task:
        """See `TaskConfig`."""
        return GeneratedTask(config=self, draw=self.draw, key=canonical, judge=judge)

    def draw(self, rng: Random) -> Problem | None:
        """Numbers at random, combined at random into the target; None if that misses the range of targets."""
        numbers = [rng.randint(self.smallest, self.largest) for _ in range(self.num_numbers)]
        values = [Fraction(number) for number in numbers]
        while len(values) > 1:
            left, right = (values.pop(rng.randrange(len(values))) for _ in range(2))
            operator = rng.choice(self.operators)
            if operator == "/" and right == 0:
                return None
            values.append(apply_operator(left, operator, right))
        target = values[0]
        if target.denominator != 1 or not self.target[0] <= target <= self.target[1]:
            return None
        return countdown_problem(self, numbers, int(target))


def countdown_problem(config: CountdownConfig, numbers: list[int], target: int) -> Problem:
    """The problem to reach `target` with `numbers`. Its answer: {"numbers", "target", "operators"}."""
    shown = {
        "numbers": " ".join(map(str, numbers)),
        "operators": " ".join(config.operators),
        "target": target,
    }
    return Problem(
        id=f"{shown['numbers']} = {target}",
        question=fill_question(config.question, **shown),
        answer={"numbers": numbers, "target": target, "operators": list(config.operators)},
        system=config.system,
    )


def canonical(problem: Problem) -> str:
    """The numbers in ascending order, and the target: the order of the numbers does not matter."""
    return f"{sorted(problem.answer['numbers'])} {problem.answer['target']}"


def judge(answer: str, expected: Mapping[str, Any]) -> Verdict:
    """Whether `answer`, an expression or `expression = target`, uses each number once and hits the target."""
    text, equals, result = answer.strip("$ \n").partition("=")
    try:
        expression = evaluate(text)
    except ExpressionError as error:
        return wrong(f"not an expression: {error}")
    if sorted(expression.numbers) != sorted(expected["numbers"]):
        return wrong(f"it uses {list(expression.numbers)}, not {expected['numbers']}")
    foreign = set(expression.operators) - set(expected["operators"])
    if foreign:
        return wrong(f"it uses {' '.join(sorted(foreign))}, which is not allowed")
    if expression.value != expected["target"]:
        return wrong(f"it makes {expression.value}, not {expected['target']}")
    if equals and result.strip() != str(expected["target"]):
        return wrong(f"it says that the result is {result.strip()!r:.40}, not {expected['target']}")
    return RIGHT


CONFIG = CountdownConfig
