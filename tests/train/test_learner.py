"""Results depend on the samples of a step alone, not on how they are packed, split or accumulated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mohist.engine.engine import Engine
from mohist.engine.runner import DecoderRunner
from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import Ops
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder
from mohist.model.tensors import Matrix
from mohist.train.extras import ExtrasConfig
from mohist.train.learner import Learner
from mohist.train.lora import LoraConfig, add_lora
from mohist.train.losses import PolicyConfig, cross_entropy, policy_loss
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from mohist.types import Request, Sample, SamplingParams
from tests.exact.models import CONFIGS, ops
from tests.train import made

EXTRAS = ExtrasConfig(bias_rate=0.01, balance=0.1, mtp=0.5)


def fresh_decoder(name: str, on: Ops) -> Decoder:
    mtp = 2 if name == "deepseek_v3" else 0
    return init_decoder(replace(CONFIGS[name], mtp_layers=mtp), on, seed=1, std=0.1)


def learner(name: str, *, threads: int = 1, extras: ExtrasConfig = EXTRAS) -> Learner:
    decoder = fresh_decoder(name, TrainingOps(ops(threads)))
    return Learner(decoder, OptimConfig(lr=1e-3), total_steps=10, extras=extras)


def gradients(of: Learner) -> dict[str, Tensor]:
    return {name: p.grad for name, p in of.optimizer.parameters.items() if p.grad is not None}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["qwen2", "deepseek_v3"])
def test_micro_batches_do_not_matter(name: str) -> None:
    weighed = weigh(made.texts(9), "token")
    whole, split = learner(name), learner(name)
    one, many = whole.pack(weighed, max_tokens=1000), split.pack(weighed, max_tokens=50)
    assert len(one) == 1
    assert len(many) > 3
    assert whole.forward_backward(one, cross_entropy) == split.forward_backward(many, cross_entropy)
    assert_close(gradients(split), gradients(whole))
    assert whole.optim_step()["grad_norm"] == pytest.approx(split.optim_step()["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"])
def test_no_policy_loss_depends_on_micro_batches(algorithm: str) -> None:
    config = PolicyConfig(algorithm=algorithm)  # ty: ignore[invalid-argument-type]
    weighed = weigh(made.answers(4, 3), config.weighing, groups=[i // 3 for i in range(12)], constant=20)
    whole, split = learner("qwen3"), learner("qwen3")
    one, many = whole.pack(weighed, max_tokens=1000), split.pack(weighed, max_tokens=40)
    loss = policy_loss(config)
    found, expected = split.forward_backward(many, loss), whole.forward_backward(one, loss)
    assert len(many) > 2
    assert found.pop("num_tokens") > expected.pop(
        "num_tokens"
    )  # where a group is split, its prompt comes twice
    assert found == expected
    assert_close(gradients(split), gradients(whole))


def test_accumulating_two_by_two_is_a_batch_of_four() -> None:
    """Half of the samples in each call, or all in one: what they count is settled before."""
    weighed = weigh(made.texts(4), "token")
    whole, halves = learner("qwen3"), learner("qwen3")
    together = whole.forward_backward(whole.pack(weighed, max_tokens=1000), cross_entropy)
    apart = [
        halves.forward_backward(halves.pack(weighed[i : i + 2], max_tokens=1000), cross_entropy)
        for i in (0, 2)
    ]
    assert sum(part["loss"] for part in apart) == pytest.approx(together["loss"], rel=1e-12)
    assert_close(gradients(halves), gradients(whole))


def test_recomputing_activations_changes_no_bit() -> None:
    plain, thrifty = learner("deepseek_v3"), learner("deepseek_v3")
    thrifty.decoder.recompute = True
    batches = plain.pack(weigh(made.texts(5), "token"), max_tokens=1000)
    assert plain.forward_backward(batches, cross_entropy) == thrifty.forward_backward(batches, cross_entropy)
    assert plain.optim_step() == thrifty.optim_step()
    assert_same_weights(plain.decoder, thrifty.decoder)


def assert_same_weights(a: Decoder, b: Decoder) -> None:
    for (name, mine), theirs in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("kind", ["adamw", "muon", "policy", "lora"])
def test_threads_change_no_bit(kind: str) -> None:
    trained = [trained_on(threads, kind) for threads in (1, 2)]
    (one_thread, first), (two_threads, second) = trained
    assert first == second
    assert_same_weights(one_thread, two_threads)


def trained_on(threads: int, kind: str) -> tuple[Decoder, list[dict[str, float]]]:
    """A decoder after three steps, and what they reported."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    decoder = fresh_decoder("deepseek_v3", TrainingOps(ops(threads)))
    if kind == "lora":
        add_lora(decoder, LoraConfig(rank=3), seed=0)
    config = OptimConfig(lr=1e-3, optimizer="muon" if kind == "muon" else "adamw")
    extras = ExtrasConfig(bias_rate=0.01, balance=0, mtp=0) if kind == "policy" else EXTRAS
    one = Learner(decoder, config, total_steps=3, extras=extras)
    loss = policy_loss(PolicyConfig()) if kind == "policy" else cross_entropy
    metrics = []
    for seed in range(3):
        samples = made.answers(3, 4, seed=seed) if kind == "policy" else made.texts(12, seed=seed)
        batches = one.pack(weigh(samples, "token"), max_tokens=200)
        metrics.append(one.forward_backward(batches, loss) | one.optim_step())
    torch.set_num_threads(before)
    return decoder, metrics


@pytest.mark.parametrize("name", ["qwen2", "deepseek_v3"])
def test_the_trainer_scores_what_was_sampled(name: str) -> None:
    """Sample, compare, step, and again: the mismatch is 0.0 until the weights change under the samples."""
    one = learner(name, extras=ExtrasConfig(bias_rate=0.01, balance=0, mtp=0))
    engine = Engine(DecoderRunner(one.decoder, ops(1), num_blocks=64))
    for step in range(2):
        prompt = tuple(range(3 + step, 20))
        params = SamplingParams(max_tokens=12, seed=step)
        sampled = engine.generate([Request(prompt=prompt, params=params)], num_samples=4)
        samples = [
            Sample(
                tokens=prompt + answer.tokens,
                weights=(0.0,) * len(prompt) + (1.0,) * len(answer.tokens),
                num_shared=len(prompt),
                logprobs=(0.0,) * len(prompt) + answer.sampled_logprobs,
                advantage=float(i - 1),
            )
            for i, answer in enumerate(sampled)
        ]
        batches = one.pack(weigh(samples, "token"), max_tokens=60)
        metrics = one.forward_backward(batches, policy_loss(PolicyConfig()))
        assert metrics["mismatch"] == 0.0
        assert metrics["clipped"] == 0.0
        assert metrics["importance"] == 1.0
        one.optim_step()
        engine.update_weights()
        assert one.evaluate(batches, policy_loss(PolicyConfig()))["mismatch"] > 0


def test_the_optimiser_changes_what_the_kernels_read() -> None:
    one = learner("deepseek_v3")
    for _ in range(2):
        one.forward_backward(one.pack(weigh(made.texts(3), "token"), max_tokens=1000), cross_entropy)
        one.optim_step()
        for name, module in one.decoder.tensors().items():
            if isinstance(module, Matrix):
                packed = torch.stack([weight.to_dense() for weight in module.weights()])
                assert module.parameter is not None
                assert torch.equal(packed.view(module.shape), module.parameter), name


def test_ops_must_record() -> None:
    with pytest.raises(ConfigError, match="TrainingOps"):
        Learner(fresh_decoder("llama", ops(1)), OptimConfig(), total_steps=1)
