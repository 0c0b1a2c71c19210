"""An engine answers with the weights that are there: after a change it equals a fresh engine."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import torch

from mohist.engine.engine import Engine
from mohist.model.decoder import Decoder
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import FusedVector, Vector
from mohist.types import Completion, SamplingParams
from mohist.weights.checkpoint import open_checkpoint
from tests.exact.models import CONFIGS, MODELS, Model, decoder, engine, load, noise, ops
from tests.exact.requests import SHARED, content

PARAMS = SamplingParams(max_tokens=4, seed=2, top_logprobs=2)


def answers(host: Engine) -> list[Completion]:
    """One sequence alone, then three together over a shared prefix: two sizes of tape."""
    apart = host.generate([SHARED[:18]], PARAMS)
    return [content(c) for c in apart + host.generate([SHARED[:35]], PARAMS, num_samples=3)]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_same_weights_announced_as_new(model: Model) -> None:
    host = engine(decoder(model, 2))
    before, cached = answers(host), host.stats().cached_tokens
    host.update_weights()
    assert answers(host) == before
    assert host.stats().cached_tokens == 2 * cached  # no prefix of before was found


@pytest.mark.parametrize("model_name", CONFIGS)
def test_every_tensor_changed_in_place(model_name: str, tmp_path: Path) -> None:
    changed = load(Model(model_name, "f32"), ops(), trainable=True)
    host = engine(changed)
    seen = [answers(host)]
    tensors = sorted(changed.tensors().items(), key=lambda item: group(item[0]))
    for key, members in groupby(tensors, key=lambda item: group(item[0])):
        with torch.no_grad():
            for name, module in members:
                for parameter in module.parameters():
                    parameter.add_(noise(f"change {name}", *parameter.shape), alpha=0.1)
        host.update_weights()
        now = answers(host)
        assert now == answers(engine(reloaded(changed, tmp_path / key))), key
        assert now not in seen, f"{key} has no effect"
        seen.append(now)


def group(key: str) -> str:
    """The first layer at once, everything else one by one."""
    return "layers.0" if key.startswith("layers.0.") else key


def test_vectors_filled_twice() -> None:
    """The second tensor may be allocated where the first was: only identity tells them apart."""
    vector = Vector(4)
    fused = FusedVector(vector)
    for value in range(3):
        vector.fill(torch.full((4,), value + 0.5))
        vector.fill(torch.full((4,), float(value)))
        with torch.no_grad():
            assert fused.value().tolist() == [value] * 4


def reloaded(changed: Decoder, folder: Path) -> Decoder:
    """The same values through files, frozen, on one thread."""
    save_decoder(changed, folder, format="f32")
    return load_decoder(open_checkpoint(folder), ops())
