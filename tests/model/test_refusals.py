"""What every family refuses: fields that it does not know, and tensors that do not fit, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mohist.errors import ModelError
from mohist.kernels.twin import TorchOps
from mohist.model import family
from mohist.model.load import load_decoder
from mohist.weights.checkpoint import open_checkpoint
from tests.model import tiny

pytestmark = pytest.mark.parity
FAMILIES = sorted(family.all_families())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The first variant of every family."""
    folders = {}
    for name in FAMILIES:
        folders[name] = tmp_path_factory.mktemp(name)
        tiny.write(name, folders[name])
    return folders


def edited(folder: Path, place: Path, **changes: Any) -> Path:
    """A copy with other fields in its config, beside the same weights."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (place / "config.json").write_text(json.dumps(config))
    (place / "model.safetensors").symlink_to(folder / "model.safetensors")
    return place


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping = 50.0: the {name} family does not know"),
        ({"hidden_act": "relu2"}, r"'relu2': the {name} family needs"),
        ({"num_hidden_layers": None}, r"num_hidden_layers is missing; the {name} family needs it"),
        ({"vocab_size": "many"}, r"vocab_size = 'many': the {name} family needs a whole number"),
    ],
)
def test_a_field_is_named_with_its_value_and_the_family(
    name: str, changes: dict[str, Any], message: str, written: dict[str, Path], tmp_path: Path
) -> None:
    folder = edited(written[name], tmp_path, **changes)
    with pytest.raises(ModelError, match=message.replace("{name}", name)):
        family.read_config(open_checkpoint(folder))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_nearest_family_is_named(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    (model_type, *_) = family.family_named(name).MODEL_TYPES
    folder = edited(written[name], tmp_path, model_type=f"{model_type}_x")
    with pytest.raises(
        ModelError, match=rf"'{model_type}_x': no family reads this; the nearest is '{model_type}'"
    ):
        family.read_config(open_checkpoint(folder))


@pytest.mark.parametrize("name", FAMILIES)
def test_tensors_that_do_not_fit_are_listed(name: str, written: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(written[name] / "model.safetensors")
    missing, misshapen = (next(key for key in tensors if part in key) for part in ("layers.1.", "layers.2."))
    rows, *columns = tensors[misshapen].shape
    tensors[misshapen] = torch.zeros(rows + 1, *columns)
    del tensors[missing]
    tensors["model.layers.0.self_attn.extra_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((written[name] / "config.json").read_text())
    with pytest.raises(ModelError) as error:
        load_decoder(open_checkpoint(tmp_path), TorchOps())
    text = str(error.value)
    assert f"the tensors do not fit the {name} config" in text
    for fault in (
        f"missing: {missing} [",
        "unknown: model.layers.0.self_attn.extra_proj.weight",
        f"misshapen: {misshapen} is [{rows + 1}",
    ):
        assert fault in text
