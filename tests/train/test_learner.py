"""Results depend on the samples of a step alone, not on how they are packed, split or accumulated."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from mohist.kernels.autograd import TrainingOps
from mohist.model.load import init_decoder
from mohist.train.batch import pack
from mohist.train.extras import ExtrasConfig
from mohist.train.learner import Learner
from mohist.train.losses import cross_entropy
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from mohist.types import Sample
from tests.exact.models import CONFIGS, VOCAB, ops

EXTRAS = ExtrasConfig(bias_rate=0.01, balance=0.1, mtp=0.5)


def samples(count: int, seed: int = 0) -> list[Sample]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        length = draw.randint(2, 40)
        tokens = tuple(draw.randrange(VOCAB) for _ in range(length))
        weights = (0.0, *(float(draw.random() < 0.7) for _ in range(length - 2)), 1.0)
        made.append(Sample(tokens=tokens, weights=weights))
    return made


def learner(name: str, *, threads: int = 1) -> Learner:
    mtp = 2 if name == "deepseek_v3" else 0
    decoder = init_decoder(replace(CONFIGS[name], mtp_layers=mtp), TrainingOps(ops(threads)), seed=1, std=0.1)
    return Learner(decoder, OptimConfig(lr=1e-3), total_steps=10, extras=EXTRAS)


@pytest.mark.parametrize("name", ["qwen2", "deepseek_v3"])
def test_micro_batches_do_not_matter(name: str) -> None:
    weighed = weigh(samples(9), "token")
    whole, split = learner(name), learner(name)
    one = pack(weighed, max_tokens=1000, ops=whole.decoder.ops)
    many = pack(weighed, max_tokens=50, ops=split.decoder.ops)
    assert len(one) == 1
    assert len(many) > 3
    assert whole.forward_backward(one, cross_entropy) == split.forward_backward(many, cross_entropy)
    for (key, a), b in zip(
        whole.optimizer.parameters.items(), split.optimizer.parameters.values(), strict=True
    ):
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=key)
    assert whole.optim_step()["grad_norm"] == pytest.approx(split.optim_step()["grad_norm"], rel=1e-5)


def test_recomputing_activations_changes_no_bit() -> None:
    weighed = weigh(samples(5), "token")
    plain, thrifty = learner("deepseek_v3"), learner("deepseek_v3")
    thrifty.decoder.recompute = True
    batches = pack(weighed, max_tokens=1000, ops=plain.decoder.ops)
    assert plain.forward_backward(batches, cross_entropy) == thrifty.forward_backward(batches, cross_entropy)
    assert plain.optim_step() == thrifty.optim_step()
    for a, b in zip(plain.decoder.parameters(), thrifty.decoder.parameters(), strict=True):
        assert torch.equal(a, b)
