"""`mohist evaluate`, from the command line to the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mohist.cli.main import main
from tests.rollout.tiny import TASK, save_tiny

TASK_WORDS = [
    *("--task.name", "arithmetic", "--task.extract", "whole", "--task.num-terms", "2,2"),
    *("--task.smallest", "0", "--task.largest", "5", "--task.operators", "+"),
    *("--task.question", TASK.question, "--split", "train", "--num-problems", "12", "--max-tokens", "2"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return str(save_tiny(folder / "a")), str(save_tiny(folder / "b", seed=1))


def test_a_table_and_a_file_that_others_are_compared_with(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = models
    file = tmp_path / "first.json"
    words = [*TASK_WORDS, "--num-samples", "4", "--threads", "1"]
    assert main(["evaluate", first, *words, "--output", str(file), "--show", "1"]) == 0
    told = capsys.readouterr()
    assert "greedy  4 samples at temperature 1" in told.out
    assert "pass@4" in told.out
    assert "question  " in told.out
    assert "tokens in" in told.err
    greedy, sampled = json.loads(file.read_text())
    assert greedy["summary"]["problems"] == 12
    assert len(sampled["results"][0]["answers"]) == 4

    assert main(["evaluate", second, *words, "--against", str(file)]) == 0
    from_file = capsys.readouterr().out
    assert main(["evaluate", second, *words, "--against", first]) == 0
    assert capsys.readouterr().out == from_file
    assert f"{second} " in from_file
    assert "; p = " in from_file


def test_keys_are_listed_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--keys"]) == 0
    assert "--num_samples int" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "task: no value given"),
        (["--task.name", "arithmetik"], "did you mean arithmetic?"),
        ([*TASK_WORDS, "--num-problem", "3"], "did you mean num_problems?"),
        ([*TASK_WORDS, "--against", "none.json"], "not a file that --output wrote"),
    ],
)
def test_mistakes_are_explained(
    models: tuple[str, str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", models[0], *words]) == 2
    assert message in capsys.readouterr().err
