"""Rows of JSONL files: streamed, with every fault reported at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mohist.data.jsonl import read_rows
from mohist.errors import DataError


def number(row: dict[str, Any]) -> int:
    if not isinstance(row.get("n"), int):
        raise ValueError('needs "n"')
    return row["n"]


def test_rows_come_before_the_faults(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": "x"}\n{"n": 2}\nnot json\n')
    rows = read_rows(path, number)
    assert [next(rows), next(rows)] == [1, 2]
    with pytest.raises(DataError, match=r'(?s)line 3: needs "n".*line 5: not valid JSON'):
        next(rows)


def test_only_the_first_faults_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("[]\n" * 30)
    with pytest.raises(DataError) as caught:
        list(read_rows(path, number))
    text = str(caught.value)
    assert "line 20: a JSON list, not an object" in text
    assert "line 21" not in text
    assert text.endswith("... and 10 more")


def test_nothing_is_a_fault_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n \n")
    with pytest.raises(DataError, match=r"rows\.jsonl: holds no row"):
        list(read_rows(path, number))
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read: No such file"):
        list(read_rows(tmp_path / "none.jsonl", number))
