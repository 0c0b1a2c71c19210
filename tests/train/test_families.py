"""Every family trains: a step of SFT on all weights, and on LoRA's alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mohist.kernels.autograd import TrainingOps
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.train.learner import Learner
from mohist.train.lora import LoraConfig, add_lora, load_adapter, save_adapter
from mohist.train.losses import cross_entropy
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from tests.exact.models import CONFIGS, Model, load, ops
from tests.train import made


def logits(decoder: Decoder) -> torch.Tensor:
    tokens = torch.arange(20, dtype=torch.int32)
    attend = PackedAttend([20], decoder.ops)
    with torch.no_grad():
        return decoder.logits(decoder(tokens, attend.positions_T, attend))


def losses(decoder: Decoder, *, lr: float) -> list[float]:
    """Of the same few texts before each of three steps."""
    learner = Learner(decoder, OptimConfig(lr=lr, warmup_steps=0), total_steps=3)
    batches = learner.pack(weigh(made.texts(4), "token"), max_tokens=1000)
    found = []
    for _ in range(3):
        found.append(learner.forward_backward(batches, cross_entropy)["loss"])
        learner.optim_step()
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_sft_makes_the_loss_smaller(name: str) -> None:
    decoder = load(Model(name, "f32"), TrainingOps(ops(1)), trainable=True)
    first, second, third = losses(decoder, lr=3e-3)
    assert third < second < first


@pytest.mark.parametrize("name", CONFIGS)
def test_lora_learns_and_is_saved(name: str, tmp_path: Path) -> None:
    decoder = load(Model(name, "f32"), TrainingOps(ops(1)))
    add_lora(decoder, LoraConfig(rank=4, alpha=8.0), seed=0)
    first, second, third = losses(decoder, lr=1e-2)
    assert third < second < first
    save_adapter(decoder, tmp_path, base=name)
    again = load(Model(name, "f32"), TrainingOps(ops(1)))
    assert not torch.equal(logits(again), logits(decoder))
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), logits(decoder))


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_can_be_adapted_alone(name: str) -> None:
    decoder = load(Model(name, "f32"), TrainingOps(ops(1)))
    add_lora(decoder, LoraConfig(rank=2, targets=("o",)), seed=0)
    adapted = [key for key, _ in decoder.named_parameters() if key.endswith("low_rank.a")]
    assert adapted == [f"layers.{layer}.mixer.o.low_rank.a" for layer in range(len(CONFIGS[name].layers))]
