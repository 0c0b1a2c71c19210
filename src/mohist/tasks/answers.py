"""Where the answer stands in what a model wrote.

| place | the answer is |
|---|---|
| boxed | inside the last `\\boxed{...}`, braces balanced |
| tag | inside the last `<answer>...</answer>` |
| answer | on the last line with `Answer:` or `答案：`, what follows it |
| number | the last number |
| line | the last line that is not empty |
| code | the last closed block between lines of three backticks |
| whole | everything |

Every search takes time linear in the text, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Found", "Place", "find_answer"]

Place = Literal["boxed", "tag", "answer", "number", "line", "code", "whole"]

_ANSWER = re.compile(r"(?:answer|答案)(?: is| are|是)? {0,2}\*{0,2} {0,2}[:：]", re.IGNORECASE)
_NUMBER = re.compile(r"(?:(?<![\w.)\]}])[-−])?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, without space around it, and the place where it was."""

    text: str
    place: Place


def find_answer(content: str, places: Sequence[Place]) -> Found | None:
    """The answer in the first of `places` that has one which is not empty."""
    for place in places:
        text = _FINDERS[place](content)
        if text is not None and text.strip():
            return Found(text.strip(), place)
    return None


def _boxed(content: str) -> str | None:
    opening = "\\boxed{"
    start = content.rfind(opening)
    if start < 0:
        return None
    start += len(opening)
    depth = 1
    for brace in re.finditer(r"\\?[{}]", content[start:]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return content[start : start + brace.start()]
    return None


def _tag(content: str) -> str | None:
    end = content.rfind("</answer>")
    start = content.rfind("<answer>", 0, max(end, 0))
    return content[start + len("<answer>") : end] if start >= 0 else None


def _answer(content: str) -> str | None:
    for line in reversed(content.splitlines()):
        ends = [match.end() for match in _ANSWER.finditer(line)]
        if ends:
            return line[ends[-1] :].strip().strip("*")
    return None


def _number(content: str) -> str | None:
    numbers = _NUMBER.findall(content)
    return numbers[-1].rstrip(",") if numbers else None


def _line(content: str) -> str | None:
    lines = [line for line in content.splitlines() if line.strip()]
    return lines[-1] if lines else None


def _code(content: str) -> str | None:
    fences = [match.start() for match in re.finditer(r"^ {0,3}```", content, re.MULTILINE)]
    if len(fences) < 2:
        return None
    opening, closing = fences[len(fences) // 2 * 2 - 2 : len(fences) // 2 * 2]
    return content[opening:closing].partition("\n")[2]


_FINDERS: dict[Place, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "tag": _tag,
    "answer": _answer,
    "number": _number,
    "line": _line,
    "code": _code,
    "whole": lambda content: content,
}
