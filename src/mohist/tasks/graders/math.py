"""Mathematics that is equal to what is expected: numbers, expressions, sets, intervals, matrices, in LaTeX.

Texts that are the same and numbers that are equal are settled here, exactly. The rest is decided by
math-verify in a process of its own, for sympy may take forever or all memory on an answer such as 9^{9^9}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mohist.tasks.extras import need
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.numbers import parse_number
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.workers import OutOfLimits, WorkerLimits, Workers

__all__ = ["CONFIG", "MathConfig", "handle", "start"]

MOST_CHARACTERS = 2000
"""Longer answers are wrong: no reference is that long, and the parser takes more than linear time."""

TRIALS = (
    ("\\frac{1}{2}", "0.5", True),
    ("\\frac{1}{2}", "\\frac{1}{3}", False),
    ("\\sqrt{18}", "3\\sqrt{2}", True),
    ("x^2 - 1", "(x - 1)(x + 1)", True),
    ("x^2 - 1", "x^2 + 1", False),
    ("\\{1, 3\\}", "\\{3, 1\\}", True),
    ("(0, 5]", "(0,5]", True),
    ("[0, 5]", "(0,5]", False),
    ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\3\\end{pmatrix}", False),
    ("\\sin(2x) + \\log_2 8", "2\\sin(x)\\cos(x) + 3", True),
    ("y = 2x + 1", "y = 1 + 2x", True),
    ("\\pi", "3.2", False),
)
"""Expected, given, equal. Trying them also builds tables of parser and sympy, for every fork to have."""


@dataclass(frozen=True, kw_only=True)
class MathConfig(GraderConfig):
    """Two numbers are compared exactly, so 0.333 is not 1/3: for a tolerance there is `numeric`."""

    name: str = "math"
    cpu_s: int = 3
    """Processor time for one answer, in seconds; an answer that takes more is wrong."""

    def make(self) -> Grader:
        """See `GraderConfig`."""
        need("math_verify", "tasks", "the grader math")
        return Math(self)


class Math:
    """Expects a number, or a text in LaTeX or plain notation."""

    def __init__(self, config: MathConfig) -> None:
        self._workers = Workers(__name__, limits=WorkerLimits(cpu_s=config.cpu_s))

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        if (
            isinstance(expected, bool)
            or not isinstance(expected, (int, float, str))
            or not str(expected).strip()
        ):
            return "a number or a text of mathematics"
        if parse_number(str(expected)) is not None:
            return None
        try:
            return self._workers.ask({"expected": expected}) or None
        except OutOfLimits as error:
            return f"mathematics that can be compared; with this it takes {error}"

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        expected = str(expected)
        if _bare(answer) == _bare(expected):
            return RIGHT
        value, target = parse_number(answer), parse_number(expected)
        if value is not None and target is not None and "%" not in answer + expected:
            return RIGHT if value == target else wrong(f"{answer:.80}, not {expected}")
        if len(answer) > MOST_CHARACTERS:
            return wrong(f"longer than {MOST_CHARACTERS} characters")
        try:
            note = self._workers.ask({"expected": expected, "answer": answer})
        except OutOfLimits as error:
            return wrong(f"comparing {answer!r:.80} takes {error}")
        return wrong(note) if note else RIGHT

    def close(self) -> None:
        """See `Grader`."""
        self._workers.close()


def _bare(text: str) -> str:
    """`text` without spaces and dollar signs."""
    return "".join(text.replace("$", "").split())


def start(_setup: Any) -> None:
    """See `mohist.tasks.worker.Service`. An error if math-verify does not tell right from wrong here."""
    for expected, answer, equal in TRIALS:
        note = handle(None, {"expected": expected, "answer": answer})
        if (note == "") != equal:
            said = note or "equal"
            raise RuntimeError(f"math-verify is not in order: it says of {expected} and {answer}: {said}")


def handle(_state: Any, request: Any) -> str:
    """See `mohist.tasks.worker.Service`: empty if the answer is what is expected, else why it is not.

    Without an answer, whether something can be expected: empty, or what should be there instead.
    """
    import math_verify

    def parse(text: str) -> list[Any]:
        # One formula: an answer cannot smuggle in a second one. The limits are the worker's.
        return math_verify.parse(f"${text.replace('$', ' ').strip()}$", parsing_timeout=0)

    expected = parse(request["expected"])
    if "answer" not in request:
        # What sympy cannot read comes back as the text alone.
        readable = any(not isinstance(form, str) for form in expected)
        fine = readable and math_verify.verify(expected, expected, timeout_seconds=None)
        return "" if fine else "mathematics that math-verify can read"
    answer = parse(request["answer"])
    if math_verify.verify(expected, answer, timeout_seconds=None):
        return ""
    return f"{request['answer']:.80}, not {request['expected']:.80}"


CONFIG = MathConfig
