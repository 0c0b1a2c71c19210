"""Files of a user's own problems: one JSON object a line, and every fault reported before anything starts.

{"question": "What is 2 + 2?", "answer": 4}
{"id": "fr-7", "question": "...", "answer": "B", "grader": "choice", "system": "Answer with a letter."}
{"question": "...", "answer": "3.5 m", "grader": {"name": "numeric", "relative_tolerance": 0.01}}
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mohist.config import from_dict
from mohist.errors import ConfigError, DataError
from mohist.tasks.grader import Grader, GraderConfig
from mohist.types import Problem

__all__ = ["Entry", "canonical_question", "read_problems"]

MOST_FAULTS = 20
"""Faults that are listed; the rest are counted."""
KEYS = ("id", "question", "answer", "system", "grader")


@dataclass(frozen=True, slots=True)
class Entry:
    """A problem and what grades it."""

    problem: Problem
    grader: GraderConfig


def canonical_question(question: str) -> str:
    """The question without regard to spaces and capital letters: equal ones are the same problem."""
    return " ".join(question.split()).casefold()


def read_problems(
    path: Path,
    *,
    system: str,
    grader: GraderConfig,
    open_grader: Callable[[GraderConfig], Grader],
    asked: dict[str, str],
) -> list[Entry]:
    """The problems in `path`, with `system` and `grader` for lines that name none.

    `asked` maps canonical questions to where they were asked; those of this file are added. Raises DataError
    that lists the faults of all lines, or TaskError if a grader cannot be had.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    entries: list[Entry] = []
    faults: list[str] = []
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _row(line)
            entry = _entry(row, system, grader)
        except (ValueError, ConfigError) as error:
            faults.append(f"line {number}: {error}")
            continue
        problem, where = entry.problem, f"{path}, line {number}"
        fault = open_grader(entry.grader).fault(problem.answer)
        if fault:
            shown = json.dumps(problem.answer, ensure_ascii=False)
            faults.append(f"line {number}: answer = {shown:.80}: expected for {entry.grader.name}: {fault}")
        first = asked.setdefault(canonical_question(problem.question), where)
        if first != where:
            faults.append(f"line {number}: asks the same as {first}; expected each question once")
        elif ids.setdefault(problem.id, number) != number:
            faults.append(f"line {number}: id = {problem.id!r} is that of line {ids[problem.id]} too")
        entries.append(entry)
    if faults:
        listed = "\n  ".join(["nothing was started; these lines are at fault:", *faults[:MOST_FAULTS]])
        more = f"\n  ... and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
        raise DataError(f"{path}: {listed}{more}")
    if not entries:
        raise DataError(f"{path}: it holds no problem; expected one JSON object a line")
    return entries


def _row(line: bytes) -> dict[str, Any]:
    """The JSON object in a line. ValueError says what is there instead."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error}); expected an object with question and answer") from error
    if not isinstance(row, dict):
        raise ValueError(f"JSON, but {type(row).__name__}; expected an object with question and answer")
    complaints = list(_complaints(row))
    if complaints:
        raise ValueError("; ".join(complaints))
    return row


def _complaints(row: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the keys of a row and the types of their values."""
    for key in row:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            yield f"{key}: no such key; " + (
                f"did you mean {near[0]}?" if near else f"known: {', '.join(KEYS)}"
            )
    for key in ("question", "answer"):
        if key not in row:
            yield f"no {key}"
    for key in ("id", "question", "system"):
        if not isinstance(row.get(key, ""), str):
            yield f"{key} = {row[key]!r:.80}: expected a text"
        elif key in row and key != "system" and not row[key].strip():
            yield f"{key} is empty"
    if not isinstance(row.get("grader", ""), (str, dict)):
        yield f"grader = {row['grader']!r:.80}: expected a name, or a table with a name"


def _entry(row: Mapping[str, Any], system: str, grader: GraderConfig) -> Entry:
    """The problem in a row. ConfigError if its grader is unknown or has a wrong setting."""
    if "grader" in row:
        table = row["grader"] if isinstance(row["grader"], dict) else {"name": row["grader"]}
        grader = from_dict(GraderConfig, table, prefix="grader.")
    digest = hashlib.blake2b(canonical_question(row["question"]).encode(), digest_size=8).hexdigest()
    problem = Problem(
        id=row.get("id", digest),
        question=row["question"],
        answer=row["answer"],
        system=row.get("system", system),
    )
    return Entry(problem, grader)
