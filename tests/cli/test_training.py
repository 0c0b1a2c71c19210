"""The verbs that train: configs from files and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mohist.cli.main import main
from tests.train import tiny


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A command line without a config file."""
    tiny.write_model(tmp_path / "base")
    tiny.write_jsonl(tmp_path / "data.jsonl", tiny.conversations(8))
    places = {"model": "base", "data": "data.jsonl", "run.folder": "run"}
    return ["sft", *(word for key, name in places.items() for word in (f"--{key}", str(tmp_path / name)))]


def test_everything_on_the_command_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--samples-per-step", "4", "--optim.lr=1e-3", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "run/checkpoints/step-2")
    assert "step 2/2  loss" in err
    assert "lr = 0.001" in (tmp_path / "run/config.toml").read_text()


def test_a_file_and_then_the_command_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sft.toml"
    path.write_text(
        f'model = "{tmp_path}/base"\ndata = "{tmp_path}/data.jsonl"\nsteps = 3\n[run]\nfolder = "x"\n'
    )
    assert main(["sft", str(path), "--steps", "5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "steps = 5" in out
    assert "in 5 steps" in out
    assert not Path("x").exists()


def test_mistakes_are_explained(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--optim.lrr", "1"]) == 2
    assert "optim.lrr: no such key; did you mean optim.lr?" in capsys.readouterr().err
    assert main(["sft", "--model", "x"]) == 2
    assert "data: no value given" in capsys.readouterr().err
    assert main([*words, "--steps", "1", "--threads", "1"]) == 0
    assert main([*words, "--steps", "1", "--threads", "1"]) == 2
    assert "holds a run already; add --resume" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["sft", "pretrain"])
def test_keys_are_listed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--keys"]) == 0
    out = capsys.readouterr().out
    assert "--optim.lr float  (default 0.0003)" in out
    assert "--run.folder path  (required)" in out
