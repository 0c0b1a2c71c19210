"""Algebra without words: solve 3x + 5 = 20, a quadratic equation, or two equations in x and y."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any, Literal

from mohist.errors import ConfigError
from mohist.tasks.answers import Place
from mohist.tasks.generated import GeneratedTask, fill_question
from mohist.tasks.numbers import parse_number
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.task import Task, TaskConfig
from mohist.types import Problem

__all__ = ["CONFIG", "AlgebraConfig", "judge"]

Kind = Literal["linear", "quadratic", "system"]


@dataclass(frozen=True, kw_only=True)
class AlgebraConfig(TaskConfig):
    """Equations with whole coefficients. Linear ones may have a fraction as solution, others do not."""

    name: str = "algebra"
    extract: tuple[Place, ...] = ("boxed", "answer")
    kinds: tuple[Kind, ...] = ("linear", "quadratic", "system")
    """linear: ax + b = cx + d. quadratic: x^2 + bx + c = 0. system: two linear equations in x and y."""
    largest: int = 12
    """Largest coefficient and largest whole solution, by absolute value; 2 to 1000."""
    question: str = "Solve {equations} for {wanted}. Put the result in \\boxed{{}}{order}."
    """How a problem is put; {equations}, {wanted} and {order} are filled in, and braces are doubled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.largest <= 1000:
            raise ConfigError(f"task.largest = {self.largest}: it must be 2 to 1000")
        if not self.kinds:
            raise ConfigError("task.kinds is empty: name at least one of linear, quadratic, system")
        fill_question(self.question, equations="", wanted="", order="")

    def make(self) -> Task:
        """See `TaskConfig`."""
        return GeneratedTask(config=self, draw=self.draw, key=canonical, judge=judge)

    def draw(self, rng: Random) -> Problem | None:
        """Equations of one of the kinds at random; None if they have no single solution."""
        drawn = _DRAW[rng.choice(self.kinds)](rng, self.largest)
        if drawn is None:
            return None
        equations = " and ".join(drawn.equations)
        return Problem(
            id=equations,
            question=fill_question(
                self.question, equations=equations, wanted=drawn.wanted, order=_ORDERS[drawn.kind]
            ),
            answer={"kind": drawn.kind, "key": drawn.key, "solution": [str(x) for x in drawn.solution]},
            system=self.system,
        )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Equations as they are shown, what they say whatever their order, and their solution."""

    kind: Kind
    equations: tuple[str, ...]
    wanted: str
    key: str
    solution: tuple[Fraction, ...]


_ORDERS: dict[Kind, str] = {
    "linear": "",
    "quadratic": ", both roots, the smaller one first, with a comma between them",
    "system": ", first x, then y, with a comma between them",
}


def draw_linear(rng: Random, largest: int) -> Drawn | None:
    """ax + b = cx + d, where c is often 0."""
    a, b, d = (rng.randint(-largest, largest) for _ in range(3))
    c = rng.choice((0, rng.randint(-largest, largest)))
    if a == c or a == 0:
        return None
    return Drawn(
        kind="linear",
        equations=(f"{side({'x': a, '': b})} = {side({'x': c, '': d})}",),
        wanted="x",
        key=str(sorted([(a, b), (c, d)])),
        solution=(Fraction(d - b, a - c),),
    )


def draw_quadratic(rng: Random, largest: int) -> Drawn:
    """x^2 + bx + c = 0 with two whole roots, which may be equal."""
    low, high = sorted(rng.randint(-largest, largest) for _ in range(2))
    equation = f"{side({'x^2': 1, 'x': -low - high, '': low * high})} = 0"
    return Drawn(
        kind="quadratic",
        equations=(equation,),
        wanted="x",
        key=equation,
        solution=(Fraction(low), Fraction(high)),
    )


def draw_system(rng: Random, largest: int) -> Drawn | None:
    """Two equations ax + by = c with one whole solution."""
    x, y, a, b, c, d = (rng.randint(-largest, largest) for _ in range(6))
    if a * d == b * c:
        return None
    rows = [(a, b, a * x + b * y), (c, d, c * x + d * y)]
    return Drawn(
        kind="system",
        equations=tuple(f"{side({'x': row[0], 'y': row[1]})} = {row[2]}" for row in rows),
        wanted="x and y",
        key=str(sorted(rows)),
        solution=(Fraction(x), Fraction(y)),
    )


_DRAW: dict[Kind, Callable[[Random, int], Drawn | None]] = {
    "linear": draw_linear,
    "quadratic": draw_quadratic,
    "system": draw_system,
}


def side(coefficients: Mapping[str, int]) -> str:
    """One side of an equation: {"x": 3, "": -5} -> "3x - 5"."""
    text = ""
    for unknown, coefficient in coefficients.items():
        if coefficient:
            size = "" if unknown and abs(coefficient) == 1 else str(abs(coefficient))
            sign = "-" if coefficient < 0 else "+"
            text += f" {sign} {size}{unknown}" if text else f"{sign.strip('+')}{size}{unknown}"
    return text or "0"


def canonical(problem: Problem) -> str:
    """The equations' coefficients, whichever side or equation comes first."""
    return f"{problem.answer['kind']} {problem.answer['key']}"


def judge(answer: str, expected: Mapping[str, Any]) -> Verdict:
    """Whether `answer` lists the solution; `x = ` and the like before a number are fine."""
    parts = [part.rpartition("=")[2] for part in answer.strip("$()（） ").replace("，", ",").split(",")]
    values = [parse_number(part) for part in parts]
    solution = [Fraction(value) for value in expected["solution"]]
    if len(values) != len(solution) or None in values:
        return wrong(f"not {len(solution)} number(s): {answer!r:.80}")
    return RIGHT if values == solution else wrong(f"{answer!r:.80}, not {', '.join(expected['solution'])}")


CONFIG = AlgebraConfig
