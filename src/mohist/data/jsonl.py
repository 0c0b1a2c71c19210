"""Files with one JSON object a line, read whole, with every fault reported before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mohist.errors import DataError

__all__ = ["read_rows"]

T = TypeVar("T")

_MOST_FAULTS = 20


def read_rows(path: Path, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    """`parse` of the object in every line that is not empty.

    `parse` says what is wrong with a row by raising ValueError. Raises DataError with the number of each
    faulty line and what was expected there; the first 20 faults are listed.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    rows: list[T] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(parse(_object(line)))
            except ValueError as error:
                faults.append(f"line {number}: {error}")
    if faults:
        more = f"\n  ... and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise DataError(f"{path}: " + "\n  ".join(["faulty lines:", *faults[:_MOST_FAULTS]]) + more)
    if not rows:
        raise DataError(f"{path}: holds no row; expected one JSON object a line")
    return rows


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value
