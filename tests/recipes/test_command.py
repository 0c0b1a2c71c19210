from pathlib import Path

import pytest

from mohist.cli.main import main
from tests.recipes.test_r1 import TINY


def test_a_dry_run_prints_the_recipe_that_comes_along(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["r1", "quickstart", "--seed", "5", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "seed = 5" in said
    assert 'name = "countdown"' in said


def test_a_whole_run_prints_table_ledger_and_where_the_model_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["r1", "quickstart", *TINY.split(), f"--folder={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "10 held-out problems" in said
    assert "cold_start, train" in said
    assert f"mohist chat {tmp_path / 'model'}" in said
    assert (tmp_path / "reinforce" / "report.html").is_file()


def test_a_recipe_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["r1", "quickstrat"]) == 2
    assert "quickstrat" in capsys.readouterr().err


def test_a_key_that_is_not_there_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["r1", "quickstart", "--teacher.patiance", "1"]) == 2
    assert "teacher.patience" in capsys.readouterr().err
