"""The optimiser against its definitions, its schedules, and its state in and out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mohist.errors import ConfigError, RunError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.twin import TorchOps
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder
from mohist.train.lora import LoraConfig, add_lora
from mohist.train.optim import OptimConfig, Optimizer, learning_rate
from tests.exact.models import CONFIGS


def decoder(name: str = "deepseek_v3") -> Decoder:
    return init_decoder(CONFIGS[name], TrainingOps(TorchOps()), seed=0)


def optimizer(config: OptimConfig) -> Optimizer:
    return Optimizer(decoder(), config, total_steps=10)


def fill(of: Optimizer, seed: int, scale: float = 1.0) -> dict[str, Tensor]:
    """Give every tensor a random gradient."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in of.parameters.values():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return {name: p.grad.clone() for name, p in of.parameters.items() if p.grad is not None}


def weights(of: Optimizer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in of.parameters.items()}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, *(0.1 + 0.9 * (8 - i) / 8 for i in range(8))]),
        ("cosine", [0.5, 1, *(0.1 + 0.9 * (1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))]),
        ("wsd", [0.5, 1, 1, 1, 1, 1, 1, 1, 0.7, 0.4]),
    ],
)
def test_schedules(schedule: str, expected: list[float]) -> None:
    config = OptimConfig(lr=2.0, schedule=schedule, warmup_steps=2, decay_steps=3, final_lr=0.1)  # ty: ignore[invalid-argument-type]
    found = [learning_rate(config, step, 10) for step in range(10)]
    assert found == pytest.approx([2 * value for value in expected])
    assert learning_rate(config, 10, 10) == pytest.approx(2 if schedule == "constant" else 0.2)


def test_adamw_is_its_definition() -> None:
    """Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, in float64."""
    config = OptimConfig(lr=0.01, betas=(0.8, 0.9), weight_decay=0.3, clip_norm=0)
    one = optimizer(config)
    expected = {name: value.double() for name, value in weights(one).items()}
    means = {name: torch.zeros_like(value) for name, value in expected.items()}
    squares = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(1, 4):
        for name, gradient in fill(one, step).items():
            means[name] = 0.8 * means[name] + 0.2 * gradient.double()
            squares[name] = 0.9 * squares[name] + 0.1 * gradient.double().square()
            if expected[name].dim() > 1:
                expected[name] = expected[name] * (1 - 0.01 * 0.3)
            root = (squares[name] / (1 - 0.9**step)).sqrt() + 1e-8
            expected[name] = expected[name] - 0.01 * means[name] / (1 - 0.8**step) / root
        one.step()
    for name, value in weights(one).items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_muon_takes_matrices_slice_by_slice() -> None:
    config = OptimConfig(optimizer="muon", lr=0.01, clip_norm=0, weight_decay=0.2)
    one = optimizer(config)
    adamw = optimizer(OptimConfig(lr=0.01, clip_norm=0, weight_decay=0.2))
    before = weights(one)
    gradients = fill(one, 0)
    fill(adamw, 0)
    one.step()
    adamw.step()
    after, rest = weights(one), weights(adamw)
    taken = [name for name in after if not torch.equal(after[name], rest[name])]
    assert "layers.1.mlp.experts.gate.parameter" in taken
    assert "layers.0.mixer.key_up.parameter" in taken
    assert not {"embed.parameter", "head.parameter", "layers.1.mlp.router.parameter"} & set(taken)
    assert all(before[name].dim() > 1 for name in taken)
    for name in taken:
        slices = [before[name]] if before[name].dim() == 2 else list(before[name])
        parts = [gradients[name]] if before[name].dim() == 2 else list(gradients[name])
        alone = [part.clone().requires_grad_() for part in slices]
        for part, gradient in zip(alone, parts, strict=True):
            part.grad = gradient
        torch.optim.Muon(alone, lr=0.01, weight_decay=0.2, adjust_lr_fn="match_rms_adamw").step()
        expected = torch.stack([part.detach() for part in alone]).view(before[name].shape)
        torch.testing.assert_close(after[name], expected, rtol=0, atol=2e-3)  # PyTorch's is in bfloat16


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_bit_for_bit(name: str) -> None:
    config = OptimConfig(optimizer=name, lr=0.01, ema=0.9, schedule="linear")  # ty: ignore[invalid-argument-type]
    one, other = optimizer(config), optimizer(config)
    for step in range(2):
        fill(one, step)
        one.step()
    saved = {key: value.clone() for key, value in one.state().items()}
    with torch.no_grad():
        for key, parameter in other.parameters.items():
            parameter.copy_(one.parameters[key])
    other.load_state(saved, one.step_count)
    for step in range(2, 4):
        fill(one, step)
        fill(other, step)
        assert one.step() == other.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(other).values(), strict=True))
    assert all(torch.equal(a, other.average[key]) for key, a in one.average.items())


def test_state_of_another_optimiser_is_refused() -> None:
    one = optimizer(OptimConfig(ema=0.9))
    fill(one, 0)
    one.step()
    with pytest.raises(RunError, match="which this one has no place for"):
        optimizer(OptimConfig()).load_state(one.state(), 1)
    plain = optimizer(OptimConfig())
    fill(plain, 0)
    plain.step()
    with pytest.raises(RunError, match="no average of embed"):
        one.load_state(plain.state(), 1)


def test_the_average_of_weights() -> None:
    one = optimizer(OptimConfig(lr=0.1, ema=0.75))
    expected = weights(one)
    for step in range(3):
        fill(one, step)
        one.step()
        now = weights(one)
        expected = {name: 0.75 * mean + 0.25 * now[name] for name, mean in expected.items()}
    for name, mean in one.average.items():
        torch.testing.assert_close(mean, expected[name])
    trained = weights(one)
    with one.averaged():
        assert all(torch.equal(value, one.average[name]) for name, value in weights(one).items())
    assert all(torch.equal(value, trained[name]) for name, value in weights(one).items())


def test_clipping_is_by_the_norm_of_everything() -> None:
    one, other = optimizer(OptimConfig(clip_norm=1.0)), optimizer(OptimConfig(clip_norm=0.0))
    gradients = fill(one, 0)
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    fill(other, 0, scale=1 / norm)
    assert one.step()["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert other.step()["grad_norm"] == pytest.approx(1, rel=1e-5)
    for a, b in zip(weights(one).values(), weights(other).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_that_are_not_finite_change_nothing() -> None:
    one = optimizer(OptimConfig())
    with pytest.raises(RunError, match="without a gradient"):
        one.step()
    fill(one, 0)
    broken = one.parameters["layers.1.mixer.o.parameter"]
    assert broken.grad is not None
    broken.grad[0, 0] = float("nan")
    before = weights(one)
    with pytest.raises(RunError, match=r"gradient of layers\.1\.mixer\.o\.parameter is not finite"):
        one.step()
    assert all(torch.equal(value, before[name]) for name, value in weights(one).items())


def test_settings_out_of_range_are_named() -> None:
    for name, value in (("lr", -1.0), ("ema", 1.0), ("final_lr", 2.0), ("eps", 0.0), ("clip_norm", -1.0)):
        with pytest.raises(ConfigError, match=f"{name} = {value}"):
            OptimConfig(**{name: value})  # ty: ignore[invalid-argument-type]
    adapted = decoder("llama")
    add_lora(adapted, LoraConfig(rank=2), seed=0)
    with pytest.raises(ConfigError, match="'muon': it trains whole matrices"):
        Optimizer(adapted, OptimConfig(optimizer="muon"), total_steps=1)
    frozen = decoder()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable tensor"):
        Optimizer(frozen, OptimConfig(), total_steps=1)
