"""Supervised fine-tuning from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mohist.config import from_dict
from mohist.errors import ConfigError, DataError
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
    folder = sft(config(base, tmp_path, steps=70, evaluate_every=40, run=run))
    rows = runs.metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 71))
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


def test_lora_resumes_and_ends_in_one_model(base: Path, tmp_path: Path) -> None:
    lora = {"lora": {"rank": 4}}
    merged = sft(config(base, tmp_path, **lora))
    assert merged == tmp_path / "run/model"
    expected, rows = load_file(merged / "model.safetensors"), runs.metrics(tmp_path / "run")
    assert expected.keys() == load_file(base / "model.safetensors").keys()
    checkpoints = tmp_path / "run/checkpoints"
    assert (checkpoints / "step-6/adapter_model.safetensors").exists()
    (checkpoints / "step-6").rename(tmp_path / "step-6")
    again = sft(config(base, tmp_path, **lora), resume=True)
    found = load_file(again / "model.safetensors")
    assert all(found[name].equal(tensor) for name, tensor in expected.items())
    assert runs.metrics(tmp_path / "run") == rows


def test_the_average_is_the_result(base: Path, tmp_path: Path) -> None:
    folder = sft(config(base, tmp_path, optim={"lr": 0.01, "ema": 0.5}))
    averaged = load_file(folder / "model.safetensors")
    last = load_file(tmp_path / "run/checkpoints/step-6/model.safetensors")
    state = load_file(tmp_path / "run/checkpoints/step-6/training/state.safetensors")
    assert not averaged["model.embed_tokens.weight"].equal(last["model.embed_tokens.weight"])
    assert averaged["model.embed_tokens.weight"].equal(state["average/embed.parameter"])


def test_what_does_not_fit_is_an_error_or_left_out(base: Path, tmp_path: Path) -> None:
    rows = tiny.conversations(8)
    rows[3]["messages"][1]["content"] = "x" * 100
    tiny.write_jsonl(tmp_path / "data.jsonl", rows)
    with pytest.raises(DataError, match=r"1 of 8 conversations have over 101 tokens, the longest 1\d\d"):
        sft(config(base, tmp_path))
    other = {"folder": str(tmp_path / "other")}
    folder = sft(config(base, tmp_path, too_long="drop", steps=1, run=other))
    assert folder.name == "step-1"


def test_settings_out_of_range_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_per_step = 0"):
        config(base, tmp_path, samples_per_step=0)
    with pytest.raises(ConfigError, match=r"held_out_share = 1\.0"):
        config(base, tmp_path, held_out_share=1.0)
    with pytest.raises(ConfigError, match="sample_per_step: no such key; did you mean samples_per_step"):
        config(base, tmp_path, sample_per_step=1)


def test_held_out_from_a_file_of_its_own(base: Path, tmp_path: Path) -> None:
    unseen = tiny.write_jsonl(tmp_path / "unseen.jsonl", tiny.conversations(3))
    sft(config(base, tmp_path, held_out=str(unseen), held_out_share=0.0))
    rows = runs.metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "held_out_loss" in row] == [3, 6]
