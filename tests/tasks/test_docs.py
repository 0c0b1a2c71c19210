"""The examples in docs/add-a-task.md work."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mohist.config import from_dict
from mohist.tasks import library
from mohist.tasks.grader import GraderConfig, all_graders
from mohist.tasks.library.jsonl import JsonlConfig
from mohist.tasks.task import TaskConfig
from mohist.types import Message

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-task.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return text


def test_the_python_file_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reverse.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.setattr(library, "__path__", [*library.__path__, str(tmp_path)])
    config = from_dict(TaskConfig, {"name": "reverse", "length": 6})
    task = config.make()
    train, test = (task.problems(split, 300) for split in ("train", "test"))
    assert not {problem.id for problem in train} & {problem.id for problem in test}
    for problem in train[:5]:
        assert len(problem.id) == 6
        right = Message(role="assistant", content=f"\\boxed{{{problem.id[::-1]}}}")
        assert task.grade(problem, right).reward == 1.0
        assert task.grade(problem, Message(role="assistant", content="\\boxed{abc}")).reward == 0.0


def test_the_lines_and_the_table_are_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = block("json")
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines.splitlines()]
    Path("problems.jsonl").write_text(lines, encoding="utf-8")
    config = from_dict(TaskConfig, tomllib.loads(block("toml"))["task"])
    assert isinstance(config, JsonlConfig)
    pytest.importorskip("math_verify", reason="NOT TESTED: math-verify is not installed")
    task = config.make()
    problems = [
        problem for split in ("train", "test") for problem in task.problems(split, task.size(split) or 0)
    ]
    assert {problem.question for problem in problems} == {row["question"] for row in rows}
    answers = {"1.4 km": "\\boxed{1400 m}", "2x": "Answer: $x + x$"}
    answers["assert add(1, 2) == 3"] = "```python\ndef add(a, b):\n    return a + b\n```"
    for problem in problems:
        message = Message(role="assistant", content=answers[problem.answer])
        assert task.grade(problem, message).reward == 1.0
    task.close()


def test_the_table_of_graders_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE, re.M)
    words = {"boxed": "boxed", "answer": "Answer:", "number": "number", "code": "code", "whole": "everything"}
    assert sorted(name for name, _ in rows) == list(all_graders())
    for name, places in rows:
        config: type[GraderConfig] = all_graders()[name]
        assert [place for place in words if words[place] in places] == list(config.places)
