"""Exact arithmetic on expressions of whole numbers, + - * / and parentheses, with Python's precedence.

There are no signs before numbers and no powers, so a text of bounded length has a value of bounded size. The
parser is Dijkstra's shunting yard: two stacks, no recursion, nothing evaluated as code.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["MAX_CHARACTERS", "Expression", "ExpressionError", "apply_operator", "evaluate"]

MAX_CHARACTERS = 1000
"""Longer expressions are refused."""

_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "（": "(", "）": ")"})
_LATEX = re.compile(r"\\(times|cdot|div|left|right)(?![A-Za-z])")
_LATEX_MEANINGS = {"times": "*", "cdot": "*", "div": "/", "left": "", "right": ""}
_TOKEN = re.compile(r"\s*(?:(?P<number>[0-9]+)|(?P<sign>[-+*/()]))")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_FUNCTIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class ExpressionError(ValueError):
    """Not an expression, or one without a value; the message says why."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What an expression says: its value, and the numbers and operators in it from left to right."""

    value: Fraction
    numbers: tuple[int, ...]
    operators: tuple[str, ...]


def apply_operator(left: Fraction, operator: str, right: Fraction) -> Fraction:
    """`left operator right`. Raises ExpressionError for a division by zero."""
    if operator == "/" and right == 0:
        raise ExpressionError("it divides by zero")
    return _FUNCTIONS[operator](left, right)


def evaluate(text: str) -> Expression:
    """Read and evaluate `text`; LaTeX and typographic signs are understood. Raises ExpressionError."""
    numbers: list[int] = []
    operators: list[str] = []
    values: list[Fraction] = []
    waiting: list[str] = []  # operators and parentheses that have not been applied
    after_value = False
    for token in _tokens(text):
        if after_value == (token.isdigit() or token == "("):
            raise ExpressionError(f"{token!r} is out of place")
        if token.isdigit():
            numbers.append(int(token))
            values.append(Fraction(numbers[-1]))
            after_value = True
        elif token == "(":
            waiting.append(token)
        elif token == ")":
            _apply(waiting, values, 0)
            if not waiting:
                raise ExpressionError("a parenthesis was never opened")
            waiting.pop()
        else:
            operators.append(token)
            _apply(waiting, values, _PRECEDENCE[token])
            waiting.append(token)
            after_value = False
    if not after_value:
        raise ExpressionError("it ends where a number should follow" if numbers else "it has no numbers")
    _apply(waiting, values, 0)
    if waiting:
        raise ExpressionError("a parenthesis was never closed")
    return Expression(value=values.pop(), numbers=tuple(numbers), operators=tuple(operators))


def _tokens(text: str) -> list[str]:
    """Numbers, operators and parentheses."""
    if len(text) > MAX_CHARACTERS:
        raise ExpressionError(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    text = _LATEX.sub(lambda match: _LATEX_MEANINGS[match[1]], text).translate(_SPELLINGS).strip()
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"{text[position:].strip()[:1]!r} is not arithmetic")
        tokens.append(match["number"] or match["sign"])
        position = match.end()
    return tokens


def _apply(waiting: list[str], values: list[Fraction], precedence: int) -> None:
    """Apply the waiting operators that bind at least as strongly, back to the last open parenthesis."""
    while waiting and waiting[-1] != "(" and _PRECEDENCE[waiting[-1]] >= precedence:
        right, left = values.pop(), values.pop()
        values.append(apply_operator(left, waiting.pop(), right))
