"""A run's folder: whole at any moment, never overwritten, cut back where it goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mohist.config import from_dict
from mohist.cost import Cost
from mohist.errors import ConfigError, RunError
from mohist.train.run import Run, RunConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 5
    threads: int | None = None
    inner: Inner = field(default_factory=Inner)
    run: RunConfig


class Model:
    """Something that saves itself."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text

    def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text(self.text)


def config(folder: Path, **changes: object) -> Config:
    return from_dict(Config, {"run": {"folder": str(folder), "keep": 2, "keep_every": 4}} | changes)


def begin(folder: Path, *, resume: bool = False, **changes: object) -> Run:
    asked = config(folder, **changes)
    return Run.open(asked, asked.run, resume=resume)


def state(step: int) -> dict[str, Tensor]:
    return {"moment": torch.full((2,), float(step))}


def train(run: Run, steps: range) -> None:
    for step in steps:
        run.log(step, {"loss": 1 / step})
        run.log_samples(step, [{"text": "日本"}, {"text": "b"}])
        run.ledger.add("train", Cost(seconds=2.0))
        run.save(step, Model(f"weights {step}"), state(step), {"seen": step * 10})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def logged(folder: Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["step"] for line in (folder / name).read_text().splitlines()]


def test_what_is_kept(tmp_path: Path) -> None:
    with begin(tmp_path / "a/run") as run:
        assert run.step == 0
        assert run.checkpoint is None
        train(run, range(1, 8))
    folder = tmp_path / "a/run"
    assert names(folder) == ["step-4", "step-6", "step-7"]
    assert (folder / "checkpoints/step-6/model.safetensors").read_text() == "weights 6"
    assert json.loads((folder / "ledger.json").read_text())["total"]["seconds"] == 14
    assert logged(folder) == list(range(1, 8))
    assert "日本" in (folder / "samples.jsonl").read_text()
    assert "rate = 0.1" in (folder / "config.toml").read_text()


def test_going_on(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        train(run, range(1, 4))
        run.log(4, {"loss": 0})
        run.log_samples(4, [{"text": "lost"}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with begin(tmp_path, resume=True, threads=2) as run:
        assert run.step == 3
        tensors, loop = run.restore()
        assert tensors["moment"].tolist() == [3, 3]
        assert loop == {"seen": 30}
        assert run.ledger.total.seconds == 6
        assert logged(tmp_path) == [1, 2, 3]
        assert logged(tmp_path, "samples.jsonl") == [1, 1, 2, 2, 3, 3]
        train(run, range(4, 5))
    assert logged(tmp_path) == [1, 2, 3, 4]


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    with begin(tmp_path), pytest.raises(RunError, match="another process is running this run"):
        begin(tmp_path, resume=True)
    with pytest.raises(RunError, match="holds a run already; add --resume"):
        begin(tmp_path)
    with pytest.raises(RunError, match=r"(?s)steps: 5 then, 6 now.*inner\.rate: 0\.1 then, 0\.2"):
        begin(tmp_path, resume=True, steps=6, inner={"rate": 0.2})
    with begin(tmp_path, resume=True) as run:  # without a checkpoint it begins anew
        assert run.step == 0


def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        train(run, range(1, 3))
    half = tmp_path / "checkpoints/.step-3"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    with begin(tmp_path, resume=True) as run:
        assert run.step == 2
        assert not half.exists()
        train(run, range(3, 4))
    assert names(tmp_path) == ["step-2", "step-3"]


def test_resuming_needs_the_logs(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        train(run, range(1, 3))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"metrics\.jsonl: is shorter than when the checkpoint was saved"):
        begin(tmp_path, resume=True)


def test_resuming_nothing_begins_anew(tmp_path: Path) -> None:
    with begin(tmp_path / "new", resume=True) as run:
        assert run.step == 0


def test_exports_replace_each_other(tmp_path: Path) -> None:
    with begin(tmp_path) as run:
        for text in ("one", "two"):
            folder = run.export(Model(text).save)
            assert (folder / "model.safetensors").read_text() == text
    assert not (tmp_path / ".model").exists()


def test_settings_out_of_range_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keep = 0: it must be at least 1"):
        RunConfig(folder=tmp_path, keep=0)
