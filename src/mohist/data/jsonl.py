"""Files with one JSON object a line, of which every faulty line is reported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from mohist.errors import DataError

__all__ = ["read_rows"]

T = TypeVar("T")

_MOST_FAULTS = 20


def read_rows(path: Path, parse: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """`parse` of the object in every line that is not empty, one after another.

    `parse` says what is wrong with a row by raising ValueError. If any line was faulty, DataError is raised
    at the end, with the number of each and what was expected there; the first 20 faults are listed.
    """
    faults: list[str] = []
    count = 0
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        count += 1
        try:
            row = parse(_object(line))
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            yield row
    if faults:
        more = f"\n  ... and {len(faults) - _MOST_FAULTS} more" if len(faults) > _MOST_FAULTS else ""
        raise DataError(f"{path}: " + "\n  ".join(["faulty lines:", *faults[:_MOST_FAULTS]]) + more)
    if not count:
        raise DataError(f"{path}: holds no row; expected one JSON object a line")


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}, not an object")
    return value
