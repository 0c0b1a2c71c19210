"""Pretraining a small mixture of experts with MTP, from text files to a folder that transformers opens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mohist.cli.main import main
from mohist.config import dump_toml, from_dict
from mohist.errors import ConfigError, DataError
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.family import family_named
from mohist.model.load import load_decoder
from mohist.train.pretrain import PretrainConfig, pretrain
from mohist.weights.checkpoint import open_checkpoint
from tests.exact.models import CONFIGS
from tests.train import runs, tiny

TEXT = "the cat sat on the mat. the dog sat on the log. "


@pytest.fixture(scope="module")
def outline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config.json and a tokenizer, and no weights."""
    folder = tmp_path_factory.mktemp("outline")
    config = replace(CONFIGS["deepseek_v3"], vocab_size=tiny.write_tokenizer(folder), mtp_layers=1)
    described = family_named(config.family).config_to_hf(config)
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def config(outline: Path, folder: Path, **changes: Any) -> PretrainConfig:
    text = folder / "book.txt"
    text.write_text(TEXT * 30)
    rows = tiny.write_jsonl(folder / "rows.jsonl", [{"text": TEXT + str(i)} for i in range(10)])
    table = {
        "model": str(outline / "config.json"),
        "data": [str(text), str(rows)],
        "held_out_share": 0.2,
        "tokens_per_step": 300,
        "context": 100,
        "max_tokens": 128,
        "steps": 5,
        "evaluate_every": 2,
        "threads": 1,
        "extras": {"bias_rate": 0.01, "balance": 0.01, "mtp": 0.3},
        "optim": {"lr": 3e-3, "optimizer": "muon", "schedule": "wsd", "warmup_steps": 1, "decay_steps": 2},
        "run": {"folder": str(folder / "run"), "save_every": 2, "keep_every": 4},
    }
    return from_dict(PretrainConfig, table | changes)


def test_mixture_with_mtp_learns_and_resumes(outline: Path, tmp_path: Path) -> None:
    folder = pretrain(config(outline, tmp_path))
    rows, whole = runs.metrics(tmp_path / "run"), load_file(folder / "model.safetensors")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.5
    assert rows[-1]["mtp_loss"] < rows[0]["mtp_loss"]
    assert {"held_out_loss", "balance_loss", "expert_overload", "lr", "grad_norm"} <= rows[-1].keys()
    biases = [tensor for name, tensor in whole.items() if name.endswith("e_score_correction_bias")]
    assert biases
    assert all(bias.abs().max() > 0 for bias in biases)

    for step in (5, 4):
        (folder.parent / f"step-{step}").rename(tmp_path / f"step-{step}")
    again = pretrain(config(outline, tmp_path), resume=True)
    assert all(tensor.equal(whole[name]) for name, tensor in load_file(again / "model.safetensors").items())
    assert runs.metrics(tmp_path / "run") == rows


@pytest.mark.parity
def test_transformers_opens_checkpoints(outline: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = pretrain(config(outline, tmp_path, steps=1))
    decoder = load_decoder(open_checkpoint(folder), TorchOps())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = theirs(tokens).logits[0]
        attend = PackedAttend([tokens.shape[1]], decoder.ops)
        found = decoder.logits(decoder(tokens[0].int(), attend.positions_T, attend))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_dry_run_counts_and_starts_nothing(
    outline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pretrain.toml"
    path.write_text(dump_toml(config(outline, tmp_path, steps="none")))
    assert main(["pretrain", str(path), "--passes", "2", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "passes = 2.0" in out
    assert re.search(r"tokens in \d+ steps", out)
    assert "GFLOP/s" in out
    assert not (tmp_path / "run").exists()


def test_what_cannot_work_is_refused(outline: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than max_tokens = 50"):
        config(outline, tmp_path, max_tokens=50)
    described = json.loads((outline / "config.json").read_text()) | {"max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(described))
    small = config(outline, tmp_path, model=str(tmp_path), context=128, tokenizer=str(outline))
    with pytest.raises(ConfigError, match="context = 128: the model is made for at most 64 tokens"):
        pretrain(small)
    rows = tiny.write_jsonl(tmp_path / "bad.jsonl", [{"text": "fine"}, {"texts": "?"}, 3])
    other = {"folder": str(tmp_path / "other")}
    with pytest.raises(DataError, match=r'(?s)line 2: needs "text".*line 3: a JSON int, not an object'):
        pretrain(config(outline, tmp_path, data=[str(rows)], run=other))
