"""Supervised fine-tuning from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mohist.config import from_dict
from mohist.llm import LLM
from mohist.train.sft import SftConfig, sft
from mohist.types import Message
from tests.train import runs, tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("base"))


def config(base: Path, folder: Path, **changes: Any) -> SftConfig:
    data = folder / "data.jsonl"
    if not data.exists():
        tiny.write_jsonl(data, tiny.conversations(50))
    table = {
        "model": str(base),
        "data": str(data),
        "held_out_share": 0.2,
        "steps": 6,
        "samples_per_step": 8,
        "max_tokens": 100,
        "evaluate_every": 3,
        "threads": 1,
        "optim": {"lr": 0.01, "schedule": "linear"},
        "run": {"folder": str(folder / "run"), "save_every": 2},
    }
    return from_dict(SftConfig, table | changes)


def test_it_learns(base: Path, tmp_path: Path) -> None:
    run = {"folder": str(tmp_path / "run")}
    folder = sft(config(base, tmp_path, steps=120, evaluate_every=40, run=run))
    rows = runs.metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 121))
    assert rows[-1]["loss"] < 0.1 < 1 < rows[0]["loss"]
    assert rows[-1]["held_out_loss"] < 0.1
    llm = LLM.load(str(folder), threads=1)
    question = Message(role="user", content="after c?")
    answers, _ = llm.generate([llm.render([question])], llm.defaults.replace(temperature=0, max_tokens=8))
    assert answers[0].message.content == "d"
    assert answers[0].completion.finish_reason == "stop"
    assert json.loads((tmp_path / "run/ledger.json").read_text())["train"]["prompt_tokens"] > 0


def test_resuming_repeats_every_bit(base: Path, tmp_path: Path) -> None:
    whole = sft(config(base, tmp_path))
    expected, rows = load_file(whole / "model.safetensors"), runs.metrics(tmp_path / "run")
    assert sorted(path.name for path in whole.parent.iterdir()) == ["step-4", "step-6"]
    for path in (whole / "training").iterdir():
        path.unlink()
    (whole / "training").rmdir()
    whole.rename(whole.with_name(".step-6"))  # as if the process had died while it wrote this
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    again = sft(config(base, tmp_path), resume=True)
    found = load_file(again / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert runs.metrics(tmp_path / "run") == rows
