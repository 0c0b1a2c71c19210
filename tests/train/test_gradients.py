"""Gradients of everything at once against finite differences in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import KvCache
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, MlaConfig, MoeConfig
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder
from mohist.model.tensors import Matrix
from mohist.train.batch import Batch
from mohist.train.extras import ExtrasConfig
from mohist.train.learner import Learner, score
from mohist.train.losses import PolicyConfig, policy_loss
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from tests.exact.models import CONFIGS
from tests.train import made

EXTRAS = ExtrasConfig(bias_rate=0, balance=0.1, mtp=0.5)
STEP = 1e-6


def small(name: str) -> DecoderConfig:
    """The last layer of an exact model, narrower, and one MTP module where the family has them."""
    config = CONFIGS[name]
    mixer, mlp = config.layers[-1].mixer, config.layers[-1].mlp
    turning = mixer.rope
    assert turning is not None
    if isinstance(mixer, MlaConfig):
        ranks = {"q_rank": mixer.q_rank and 8, "kv_rank": 8, "nope_dim": 6, "value_dim": 5}
        mixer = replace(mixer, num_heads=2, **ranks)
    else:
        assert isinstance(mixer, GqaConfig)
        mixer = replace(mixer, head_dim=8, rope=None)
    mlp = replace(mlp, width=6, shared_width=5) if isinstance(mlp, MoeConfig) else DenseConfig(width=12)
    rope = replace(turning, dim=4, scaling=None)
    layer = replace(config.layers[-1], mixer=replace(mixer, rope=rope), mlp=mlp)
    mtp = int(name == "deepseek_v3")
    return replace(config, hidden_size=12, layers=(layer,), mtp_layers=mtp)


class DoubleAttend(PackedAttend):
    """The same with caches in float64."""

    def _cache(self, spec: Any) -> Any:
        cache = super()._cache(spec)
        assert isinstance(cache, KvCache)
        return KvCache(cache.keys.double(), None if cache.values is None else cache.values.double())


def doubled(decoder: Decoder) -> None:
    """Turn every tensor into float64; the twin computes with what it is given."""
    for module in decoder.tensors().values():
        if isinstance(module, Matrix):
            assert module.parameter is not None
            module.train_from(module.parameter.detach().double())
        else:
            module.fill(module.value.detach().double(), trainable=True)


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "deepseek_v3", "deepseek_v2"])
def test_gradients_are_finite_differences(name: str) -> None:
    """Along a random direction of every tensor, in float64, for a policy loss with KL and all extras."""
    torch.manual_seed(0)
    decoder = init_decoder(small(name), TrainingOps(TorchOps()), seed=1, std=0.3)
    doubled(decoder)
    one = Learner(decoder, OptimConfig(), total_steps=1, extras=EXTRAS)
    samples = weigh(made.answers(1, 2), "token")
    (batch,) = one.pack(samples, max_tokens=1000)
    assert batch.old_logprobs_J is not None
    with torch.no_grad():
        logprobs_J = score(decoder, doubles(batch))
    batch = replace(doubles(batch), old_logprobs_J=logprobs_J + 0.1, reference_logprobs_J=logprobs_J - 0.2)
    loss = policy_loss(PolicyConfig(kl=0.1))

    def value() -> float:
        metrics = one.forward_backward([batch], loss)
        return metrics["loss"] + metrics.get("balance_loss", 0.0) + metrics.get("mtp_loss", 0.0)

    value()
    found = {name: p.grad.clone() for name, p in one.optimizer.parameters.items() if p.grad is not None}
    assert len(found) > 10
    for key, gradient in found.items():
        parameter = one.optimizer.parameters[key]
        direction = torch.randn_like(gradient)
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * STEP)
            ends.append(value())
            with torch.no_grad():
                parameter.sub_(direction, alpha=sign * STEP)
        expected = float((gradient * direction).sum())
        assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(expected, rel=1e-4, abs=1e-7), key


def doubles(batch: Batch) -> Batch:
    """A batch for a decoder in float64."""
    attend = DoubleAttend.__new__(DoubleAttend)
    vars(attend).update(vars(batch.attend))
    return replace(batch, attend=attend, weights_J=batch.weights_J.double())
