"""A user's own problems: graded as they say, split by their questions, refused if any line is at fault."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.config import load
from mohist.errors import ConfigError, DataError, TaskError
from mohist.tasks.graders.numeric import NumericConfig
from mohist.tasks.library.jsonl import JsonlConfig
from mohist.tasks.problem_file import canonical_question, read_problems
from mohist.tasks.scoring import Verdict
from mohist.tasks.task import Task, TaskConfig
from mohist.types import Message, Problem

Make = Callable[..., Task]


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    tasks: list[Task] = []

    def make_(rows: list[Any], **settings: Any) -> Task:
        tasks.append(JsonlConfig(path=write(tmp_path / "problems.jsonl", rows), **settings).make())
        return tasks[-1]

    yield make_
    for task in tasks:
        task.close()


def reward(task: Task, problem: Problem, content: str) -> float:
    return task.grade(problem, Message(role="assistant", content=content)).reward


ROWS = [
    {"question": "What is 2 + 2?", "answer": 4, "grader": "numeric"},
    {
        "id": "capital",
        "question": "The capital of France?",
        "answer": ["Paris", "paris"],
        "system": "Be brief.",
    },
    {
        "question": "How long is it?",
        "answer": "2 m",
        "grader": {"name": "numeric", "relative_tolerance": 0.1},
    },
    {"question": "问：二加三等于几？ A. 五 B. 六", "answer": "A", "grader": "choice"},
    "",
    {"question": "Write a word of a's.", "answer": "a+", "grader": "regex"},
]
RIGHT = {
    "What is 2 + 2?": "it is 4",
    "The capital of France?": "Answer: Paris",
    "How long is it?": r"\boxed{205\,cm}",
    "问：二加三等于几？ A. 五 B. 六": "答案：A",
    "Write a word of a's.": r"\boxed{aaa}",
}


def all_problems(task: Task) -> list[Problem]:
    return [problem for split in ("train", "test") for problem in task.problems(split, task.size(split) or 0)]


def test_each_line_is_graded_as_it_says(make: Make) -> None:
    task = make(ROWS, system="Think.")
    problems = all_problems(task)
    assert {problem.question for problem in problems} == set(RIGHT)
    for problem in problems:
        assert reward(task, problem, RIGHT[problem.question]) == 1.0
        assert reward(task, problem, "Answer: wrong") == 0.0
    by_question = {problem.question: problem for problem in problems}
    assert by_question["The capital of France?"].id == "capital"
    assert by_question["The capital of France?"].system == "Be brief."
    assert by_question["What is 2 + 2?"].system == "Think."


def test_the_default_grader_and_places_are_the_configs(make: Make) -> None:
    rows = [{"question": f"{i}?", "answer": i} for i in range(4)]
    task = make(rows, grader=NumericConfig(absolute_tolerance=1.0), extract=("line",))
    for problem in all_problems(task):
        assert reward(task, problem, f"so\n{problem.answer + 1}") == 1.0
        assert reward(task, problem, f"\\boxed{{{problem.answer}}} or so") == 0.0


def test_a_hash_of_the_question_splits(make: Make) -> None:
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(300)]
    task = make(rows, test_fraction=0.3)
    train, test = (task.problems(split, task.size(split) or 0) for split in ("train", "test"))
    assert len(train) + len(test) == 300
    assert 60 < len(test) < 120
    assert all(task.split_of(problem) == "train" for problem in train)
    assert all(task.split_of(problem) == "test" for problem in test)
    shuffled = make([*reversed(rows), {"question": "new?", "answer": 0}], test_fraction=0.3)
    assert all(shuffled.split_of(problem) == "test" for problem in test)
    assert make([{"question": "  WHAT is\n 7?", "answer": 7}]).split_of(
        Problem(id="", question="what is 7?", answer=7)
    ) == split_of_seven(make)


def split_of_seven(make: Make) -> str:
    return make([{"question": "What is 7?", "answer": 7}]).split_of(
        Problem(id="", question="What is 7?", answer=7)
    )


def test_a_file_of_held_out_problems(make: Make, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(20)]
    test_path = write(tmp_path / "test.jsonl", rows[:5])
    task = make(rows[5:], test_path=test_path)
    assert (task.size("train"), task.size("test")) == (15, 5)
    assert {problem.question for problem in task.problems("test", 5)} == {row["question"] for row in rows[:5]}
    with pytest.raises(
        DataError, match=r"test\.jsonl: [^\n]*\n  line 5: asks the same as .*problems\.jsonl, line 1"
    ):
        make(rows[4:], test_path=test_path)


def test_an_epoch_is_every_problem_once_in_an_order_of_the_seed(make: Make) -> None:
    task = make([{"question": f"What is {i}?", "answer": i} for i in range(50)])
    size = task.size("train")
    assert size is not None
    epochs = [task.problems("train", size, seed=seed) for seed in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(problem.id for problem in epochs[0]) == sorted(problem.id for problem in epochs[2])
    assert task.problems("train", 5, seed=1) == epochs[2][:5]
    with pytest.raises(
        ConfigError, match=rf"split train: {size + 1} problems were asked for and there are {size}"
    ):
        task.problems("train", size + 1)


def test_all_faults_are_listed_line_by_line_and_nothing_starts(make: Make) -> None:
    rows = [
        {"question": "fine?", "answer": "yes"},
        "{'question': 1}",
        "[1, 2]",
        {"question": "q"},
        {"quest": "q", "answer": 1},
        {"question": 3, "answer": 1, "id": ""},
        {"question": " ", "answer": 1},
        {"question": "FINE?", "answer": "no"},
        {"question": "a?", "answer": "Z", "grader": "choice"},
        {"question": "b?", "answer": 1, "grader": "chioce"},
        {"question": "c?", "answer": 1, "grader": {"name": "numeric", "tolerance": 1}},
        {"question": "d?", "answer": 1, "grader": 7},
        {"question": "e?", "answer": "(", "grader": "regex"},
        {"question": "f?", "answer": 1, "id": "one"},
        {"question": "g?", "answer": 1, "id": "one"},
        {"question": "h?", "answer": "assert f(", "grader": "python"},
    ]
    expected = [
        "problems.jsonl: nothing was started; these lines are at fault:",
        "line 2: not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)); exp",
        "line 3: JSON, but list; expected an object with question and answer",
        "line 4: no answer",
        "line 5: quest: no such key; did you mean question?; no question",
        "line 6: id is empty; question = 3: expected a text",
        "line 7: question is empty",
        "line 8: asks the same as",
        'line 9: answer = "Z": expected for choice: one or more of the letters ABCDEFGH',
        "line 10: grader.name = 'chioce': no such name; did you mean choice?",
        "line 11: grader.tolerance: no such key; did you mean grader.relative_tolerance?",
        "line 12: grader = 7: expected a name, or a table with a name",
        'line 13: answer = "(": expected for regex: a pattern of Python\'s re; this one fails: missing )',
        "line 15: id = 'one' is that of line 14 too",
        'line 16: answer = "assert f(": expected for python: tests that are Python; these fail:',
    ]
    with pytest.raises(DataError) as caught:
        make(rows)
    lines = str(caught.value).splitlines()
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_many_faults_are_counted(make: Make) -> None:
    with pytest.raises(DataError, match=r"line 20: no answer\n  \.\.\. and 80 more$"):
        make([{"question": f"{i}?"} for i in range(100)])


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_problems_is_an_error(content: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match="it holds no problem"):
        JsonlConfig(path=path).make()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        JsonlConfig(path=tmp_path / "none.jsonl").make()


def test_a_problem_of_another_file_is_an_error(make: Make) -> None:
    task = make(ROWS)
    with pytest.raises(TaskError, match="problem 'x' is not in"):
        reward(task, Problem(id="x", question="unheard of?", answer=1), "1")


def test_it_is_chosen_in_toml(tmp_path: Path) -> None:
    from dataclasses import dataclass

    write(tmp_path / "problems.jsonl", [{"question": "1?", "answer": 1}])

    @dataclass(frozen=True, kw_only=True)
    class Run:
        task: TaskConfig

    path = tmp_path / "run.toml"
    path.write_text(
        f'[task]\nname = "jsonl"\npath = "{tmp_path}/problems.jsonl"\nlanguage = "zh"\n'
        '[task.grader]\nname = "numeric"\nrelative_tolerance = 0.5\n'
    )
    config = load(Run, path=path, overrides=["--task.grader.absolute_tolerance", "2"]).task
    assert isinstance(config, JsonlConfig)
    assert config.grader == NumericConfig(relative_tolerance=0.5, absolute_tolerance=2.0)
    assert config.language == "zh"


class Anything:
    """A grader that is content with whatever is expected."""

    def fault(self, expected: Any) -> str | None:
        return None

    def judge(self, answer: str, expected: Any) -> Verdict:
        return Verdict(0.0)

    def close(self) -> None: ...


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers(), max_size=2)
NAMES = st.sampled_from(["question", "answer", "id", "system", "grader", "name"]) | st.text()


LINES = st.dictionaries(NAMES, VALUES, max_size=4).map(json.dumps).map(str.encode) | st.binary()


@given(st.lists(LINES, max_size=5))
@settings(max_examples=50)
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join(lines))
    with contextlib.suppress(DataError):
        entries = read_problems(
            path, system="", grader=NumericConfig(), open_grader=lambda config: Anything(), asked={}
        )
        questions = [canonical_question(entry.problem.question) for entry in entries]
        assert len(set(questions)) == len(questions) > 0
