"""Gradients of the training ops, against finite differences and PyTorch's own, all in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from mohist.kernels.activation import GELU_TANH, SIGMOID, SILU, Activation
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import (
    AttentionSpec,
    ExpertBiases,
    ExpertWeights,
    KvCache,
    LightningSpec,
    RouteSpec,
    RowPlan,
    StateCache,
)
from mohist.kernels.twin import TorchOps
from mohist.kernels.weight import Weight
from mohist.types import SamplingParams
from tests.kernels.test_weight import random_rows

PLAIN = TorchOps()
OPS = TrainingOps(PLAIN)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check(function: Callable[..., Tensor], *inputs: Tensor) -> None:
    """`function(ops, *inputs)`: finite differences, and agreement with PyTorch through the twin."""
    torch.autograd.gradcheck(lambda *args: function(OPS, *args), inputs)
    ours, plain = function(OPS, *inputs), function(PLAIN, *inputs)
    assert torch.equal(ours, plain)
    direction = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(plain, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def weight(source: Tensor) -> Weight:
    return Weight.from_dense(source.detach().float()).with_source(source)


def test_linear() -> None:
    check(
        lambda ops, x, a, b, bias, r: ops.linear(x, (weight(a), weight(b)), bias=bias, residual=r),
        leaf(3, 5),
        leaf(4, 5),
        leaf(2, 5),
        leaf(6),
        leaf(3, 6),
    )


def test_frozen_weights_pass_gradients_on() -> None:
    matrix, x = torch.randn(6, 5), torch.randn(3, 5, requires_grad=True)
    y = OPS.linear(x, (Weight.from_dense(matrix),))
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.ones(3, 6) @ matrix)


def test_quantised_weights_pass_gradients_on() -> None:
    packed = Weight.from_rows("q8_0", random_rows("q8_0", 16, 32))
    x = torch.randn(3, 32, requires_grad=True)
    for ops in (OPS, PLAIN):
        (dx,) = torch.autograd.grad(ops.linear(x, (packed,)).sum(), x)
        torch.testing.assert_close(dx, torch.ones(3, 16) @ packed.to_dense())


def test_linear_grouped() -> None:
    check(
        lambda ops, x, a, b: ops.linear_grouped(x, (weight(a), weight(b))),
        leaf(3, 2, 5),
        leaf(4, 5),
        leaf(4, 5),
    )


def test_embed() -> None:
    tokens = torch.tensor([2, 0, 2])
    check(lambda ops, table: ops.embed(weight(table), tokens), leaf(4, 5))


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 5)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    check(lambda ops, x, w: ops.rms_norm(x, w, 1e-3), leaf(*shape), leaf(5))
    if len(shape) == 2:
        check(lambda ops, x, w, r: ops.rms_norm(x, w, 1e-3, residual=r), leaf(*shape), leaf(5), leaf(*shape))


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(interleaved: bool) -> None:
    cos_sin = torch.randn(3, 2, 2, dtype=torch.float64)
    check(lambda ops, x: ops.rope(x, cos_sin, interleaved=interleaved, offset=1), leaf(3, 2, 6))


def test_glu_and_concat() -> None:
    check(lambda ops, x: ops.silu(x), leaf(3, 8))
    check(lambda ops, x, r: ops.scale(x, 0.7, residual=r), leaf(3, 8), leaf(3, 8))
    check(lambda ops, x, w: ops.rms_norm(x, w, 1e-5, shift=1.0), leaf(3, 8), leaf(8))
    for activation in (SILU, GELU_TANH, SIGMOID, Activation(kind="clamped_silu", steepness=1.7, limit=0.8)):
        check(lambda ops, x, a=activation: ops.glu(x, a), leaf(3, 8))
    check(lambda ops, a, b: ops.concat(a, b), leaf(3, 2, 4), leaf(3, 2, 3))


@pytest.mark.parametrize("latent", [False, True])
def test_attention(latent: bool) -> None:
    spec = AttentionSpec(
        layer=0, num_kv_heads=1 if latent else 2, key_dim=3, value_dim=2, latent=latent, scale=0.7, window=3
    )
    groups = spec.num_kv_heads
    positions = torch.tensor([0, 1, 2, 3, 4, 0, 1], dtype=torch.int32)
    sequence = torch.tensor([0] * 5 + [1] * 2, dtype=torch.int32)
    rows = RowPlan(positions, sequence, torch.tensor([[1], [0]], dtype=torch.int32))

    def function(ops: TorchOps, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None) -> Tensor:
        values = None if latent else torch.zeros(2, groups, 16, 2, dtype=torch.float64)
        cache = KvCache(torch.zeros(2, groups, 1, 3, 16, dtype=torch.float64), values)
        ops.store(cache, rows, k, None if latent else v)
        out = ops.attention(q, cache, rows, spec, sinks_N=sinks)
        return out + 0 * v.sum()

    check(function, leaf(7, 4, 3), leaf(7, groups, 3), leaf(7, groups, 2))
    check(function, leaf(7, 4, 3), leaf(7, groups, 3), leaf(7, groups, 2), leaf(4))


def test_lightning() -> None:
    """Two sequences, the second of which goes on from the first one's full block."""
    spec = LightningSpec(layer=0, num_heads=2, key_dim=3, value_dim=2)
    positions = torch.tensor([*range(18), 16, 17], dtype=torch.int32)
    sequence = torch.tensor([0] * 18 + [1] * 2, dtype=torch.int32)
    rows = RowPlan(positions, sequence, torch.tensor([[0, 1], [0, 2]], dtype=torch.int32))
    decays = torch.tensor([0.5, 0.9])

    def function(ops: TorchOps, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        cache = StateCache.zeros(spec, num_blocks=3, block_size=16, device=PLAIN.device)
        return ops.lightning(q, k, v, StateCache(cache.states.double(), 16), rows, decays)

    check(function, leaf(20, 2, 3), leaf(20, 2, 3), leaf(20, 2, 2))


def test_a_second_store_hides_the_first() -> None:
    spec = AttentionSpec(layer=0, num_kv_heads=1, key_dim=3, value_dim=2, scale=1.0)
    rows = RowPlan(
        *(torch.zeros(1, dtype=torch.int32) for _ in range(2)), torch.zeros(1, 1, dtype=torch.int32)
    )
    first, second, k = (
        torch.ones(1, 1, 2, requires_grad=True),
        torch.ones(1, 1, 2, requires_grad=True),
        torch.ones(1, 1, 3),
    )
    cache = KvCache.zeros(spec, num_blocks=1, block_size=16, device=PLAIN.device)
    OPS.store(cache, rows, k, first)
    OPS.store(cache, rows, k, second)
    OPS.attention(torch.ones(1, 1, 3), cache, rows, spec).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.tolist() == [[[0.0, 0.0]]]
    assert second.grad.tolist() == [[[1.0, 1.0]]]


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize("renormalize", [False, True])
def test_route(scoring: Literal["sigmoid", "softmax"], renormalize: bool) -> None:
    spec = RouteSpec(top_k=3, scoring=scoring, num_groups=4, top_groups=2, renormalize=renormalize, scale=2.5)
    bias = torch.randn(8, dtype=torch.float64)
    check(lambda ops, logits: ops.route(logits, spec, bias_E=bias)[1], leaf(4, 8))


def test_moe() -> None:
    experts = torch.tensor([[0, 2], [2, 1], [0, 1]], dtype=torch.int32)

    def function(
        ops: TorchOps, x: Tensor, w: Tensor, r: Tensor, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        groups = [[weight(part) for part in matrix] for matrix in (gate, up, down)]
        return ops.moe(x, experts, w, ExpertWeights(groups[0], groups[1], groups[2]), residual=r)

    def biased(
        ops: TorchOps, x: Tensor, w: Tensor, gate: Tensor, up: Tensor, down: Tensor, *biases: Tensor
    ) -> Tensor:
        groups = [[weight(part) for part in matrix] for matrix in (gate, up, down)]
        mlps = ExpertWeights(groups[0], groups[1], groups[2], ExpertBiases(*biases), GELU_TANH)
        return ops.moe(x, experts, w, mlps)

    matrices = (leaf(4, 5, 4), leaf(4, 5, 4), leaf(4, 4, 5))
    check(function, leaf(3, 4), leaf(3, 2), leaf(3, 4), *matrices)
    check(biased, leaf(3, 4), leaf(3, 2), *matrices, leaf(4, 5), leaf(4, 5), leaf(4, 4))


@pytest.mark.parametrize(
    "params", [None, SamplingParams(temperature=0.7, top_k=5), SamplingParams(top_p=0.8, min_p=0.05)]
)
def test_logprobs(params: SamplingParams | None) -> None:
    targets = torch.tensor([1, 6, 1])

    def function(ops: TorchOps, x: Tensor, head: Tensor) -> Tensor:
        return ops.logprobs(x, weight(head), targets, params, chunk=2).logprobs_T

    check(function, leaf(3, 4), leaf(7, 4))


def test_rows_without_a_gradient_are_not_computed_again() -> None:
    x, head = torch.randn(4, 5, requires_grad=True), torch.randn(7, 5)
    head[0] = float("nan")  # what row 3 is scored with would spoil every row, were they computed
    scores = OPS.logprobs(x, Weight.from_dense(head), torch.zeros(4, dtype=torch.int32), chunk=2)
    scores.logprobs_T.backward(torch.zeros(4))
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(4, 5))
    assert not scores.entropies_T.requires_grad


def test_it_presents_itself_as_what_it_wraps() -> None:
    assert (OPS.name, OPS.exact, OPS.device) == (PLAIN.name, PLAIN.exact, PLAIN.device)
