"""From a judge's verdict on the answer to the grade of a whole message: the same for every task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mohist.errors import TaskError
from mohist.tasks.answers import Place, find_answer
from mohist.tasks.language import share_in
from mohist.tasks.task import TaskConfig
from mohist.types import Grade, Message, Problem

__all__ = ["RIGHT", "Judge", "Verdict", "grade_message", "wrong"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How right an answer is, 0 to 1, and for people what is wrong with it."""

    accuracy: float
    note: str = ""


RIGHT = Verdict(1.0)

Judge = Callable[[str, Any], Verdict]
"""(answer, `Problem.answer`) -> verdict. It raises only if it cannot judge, never because of a bad answer."""


def wrong(note: str) -> Verdict:
    """The verdict on an answer that is wrong for the reason given."""
    return Verdict(0.0, note)


def grade_message(
    config: TaskConfig,
    problem: Problem,
    message: Message,
    judge: Judge,
    *,
    places: Sequence[Place] | None = None,
) -> Grade:
    """Find the answer in `message.content`, have it judged, and weigh accuracy, format and language.

    It is looked for in `places`, or else where the config says.
    Language is looked for in thinking and answer together. TaskError naming the problem if `judge` raises.
    """
    places = places or config.extract
    found = find_answer(message.content, places)
    verdict = wrong(f"no answer: it must be in {' or '.join(places)}")
    if found is not None:
        try:
            verdict = judge(found.text, problem.answer)
        except Exception as error:
            raise TaskError(
                f"problem {problem.id!r}: the grader of task {config.name!r} failed on the answer "
                f"{found.text!r:.200}: {type(error).__name__}: {error}"
            ) from error
    parts = {
        "accuracy": verdict.accuracy,
        "format": float(found is not None and found.place == places[0]),
    }
    reward = verdict.accuracy + config.format_weight * parts["format"]
    if config.language is not None:
        text = f"{message.reasoning or ''}\n{message.content}"
        parts["language"] = share_in(text, config.language)
        reward += config.language_weight * parts["language"]
    return Grade(reward=reward, parts=parts, note=verdict.note)
