"""MiniMax-M1 in the spelling of its published files, whose fields have other names than transformers'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mohist.errors import ModelError
from mohist.kernels.twin import TorchOps
from mohist.model.config import GqaConfig
from mohist.model.family import read_config
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.weights.checkpoint import open_checkpoint
from tests.model import tiny

pytestmark = pytest.mark.parity

NAMES = {"full_attn": "full_attention", "linear_attn": "linear_attention", "mlp": "mlp"}


def published(folder: Path, **changes: Any) -> Path:
    """A tiny model whose config.json has the fields that the released one has."""
    tiny.write("minimax", folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for ours, theirs in NAMES.items():
        for kind in ("alpha", "beta"):
            config[f"layernorm_{theirs}_{kind}"] = config.pop(f"{ours}_{kind}_factor")
    config["attn_type_list"] = [int(kind == "full_attention") for kind in config.pop("layer_types")]
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    del config["block_size"]
    config |= {
        "model_type": "minimax_m1",
        "architectures": ["MiniMaxM1ForCausalLM"],
        "postnorm": True,
        "rotary_dim": config["head_dim"],
        "shared_intermediate_size": 0,
        "shared_moe_mode": "sigmoid",
    }
    path.write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize("model_type", ["minimax_m1", "minimax_text_01"])
def test_both_spellings_are_one_model(model_type: str, tmp_path: Path) -> None:
    tiny.write("minimax", tmp_path / "theirs")
    theirs = open_checkpoint(tmp_path / "theirs")
    ours = open_checkpoint(published(tmp_path / "ours", model_type=model_type))
    assert read_config(ours) == read_config(theirs)
    for name, module in load_decoder(theirs, TorchOps()).tensors().items():
        other = load_decoder(ours, TorchOps()).tensors()[name]
        assert module.shape == other.shape


def test_heads_turned_in_part_are_saved_as_they_were_published(tmp_path: Path) -> None:
    source = open_checkpoint(published(tmp_path / "theirs", rotary_dim=12))
    config = read_config(source)
    mixer = config.layers[1].mixer
    assert isinstance(mixer, GqaConfig)
    assert mixer.rope is not None
    assert (mixer.rope.dim, mixer.head_dim) == (12, 24)
    save_decoder(load_decoder(source, TorchOps()), tmp_path / "saved")
    saved = open_checkpoint(tmp_path / "saved")
    assert read_config(saved) == config
    assert saved.config["rotary_dim"] == 12
    assert saved.config["model_type"] == "minimax_m1"
    for name in saved.tensors:
        assert torch.equal(saved.read(name).data, source.read(name).data), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"postnorm": False}, "postnorm = False: the minimax family needs True"),
        ({"postnorm": None}, "postnorm = None: the minimax family needs True"),
        ({"attn_type_list": [0, 1, 2]}, "attn_type_list = .*needs 3 of 0 .linear. or 1 .softmax."),
        ({"attn_type_list": [0]}, "attn_type_list = "),
        ({"shared_intermediate_size": 64}, "shared_intermediate_size = 64: the minimax family needs 0"),
        ({"rotary_dim": 26}, "rope dim = 26: it must be at most 24"),
        ({"layernorm_gate_alpha": 2.0}, "layernorm_gate_alpha = 2.0: the minimax family does not know"),
    ],
)
def test_fields_that_change_the_model_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read_config(open_checkpoint(published(tmp_path, **changes)))
