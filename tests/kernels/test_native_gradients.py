"""Gradients by the C++ kernels: near PyTorch's in float64, and the same bits for one and two threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mohist.kernels.abi import library_path
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.gradients import Gradients, TorchGradients, dense
from mohist.kernels.native import NativeOps
from mohist.kernels.native_gradients import NativeGradients
from mohist.kernels.ops import (
    AttentionSpec,
    ExpertBiases,
    ExpertWeights,
    KvCache,
    LightningSpec,
    Ops,
    RouteSpec,
    RowPlan,
    StateCache,
)
from mohist.kernels.twin import TorchOps
from mohist.kernels.weight import Weight
from mohist.types import SamplingParams
from tests.kernels.test_native import ACTIVATIONS, choices, strided

PATH = library_path()
if PATH is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

OPS = NativeOps(PATH, 1)
OURS = [NativeGradients(OPS), NativeGradients(NativeOps(PATH, 2))]
TRAINING = [TrainingOps(OPS), TrainingOps(NativeOps(PATH, 2))]
REFERENCE = TorchGradients(TorchOps())

seeds = st.integers(0, 2**32 - 1)
paddings = st.integers(0, 3)


class Noise:
    """Random tensors, one after another."""

    def __init__(self, seed: int, padding: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.padding = padding

    def __call__(self, *shape: int, scale: float = 1.0) -> Tensor:
        return strided(torch.randn(shape, generator=self.generator) * scale, self.padding)

    def weights(self, count: int, rows: int, columns: int) -> list[Weight]:
        matrices = [torch.randn(rows, columns, generator=self.generator) for _ in range(count)]
        return [Weight.from_dense(matrix).with_source(matrix) for matrix in matrices]

    def choices(self, rows: int, count: int, among: int) -> Tensor:
        order = torch.rand(rows, among, generator=self.generator).argsort(dim=1)
        return order[:, :count].int().contiguous()


def double(weights: Iterable[Weight]) -> list[Weight]:
    return [w.with_source(w.source.double()) for w in weights if w.source is not None]


Result = Tensor | KvCache | tuple | list | None


Cast = Callable[[Tensor], Tensor]


def flat(result: Result) -> list[Tensor]:
    if result is None or isinstance(result, Tensor):
        return [] if result is None else [result]
    if isinstance(result, KvCache):
        result = [result.keys, result.values]
    return [tensor for part in result for tensor in flat(part)]


def check(function: Callable[[Gradients, Cast], Result], tolerance: float = 2e-5) -> None:
    """`function(gradients, cast)`: ours on float32, the reference on float64 of the same numbers."""
    expected = flat(function(REFERENCE, lambda x: x.double()))
    one, two = (flat(function(ours, lambda x: x)) for ours in OURS)
    assert len(one) == len(expected)
    for mine, again, theirs in zip(one, two, expected, strict=True):
        assert torch.equal(mine, again)
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * scale)


@given(seeds, st.integers(1, 300), st.integers(1, 120), st.integers(1, 120), paddings, st.booleans())
@settings(max_examples=40)
def test_linear(seed: int, rows: int, n: int, k: int, padding: int, first: bool) -> None:
    noise = Noise(seed, padding)
    weights = [*noise.weights(1, n, k), *noise.weights(1, n // 2 + 1, k)]
    x, dy = noise(rows, k), noise(rows, n + n // 2 + 1)
    before = [torch.randn(w.out_features, k) for w in weights]

    def function(gradients: Gradients, cast: Cast) -> Result:
        own = weights if gradients is not REFERENCE else double(weights)
        add_to = [cast(tensor).clone() for tensor in before]
        return (
            gradients.linear(cast(dy), cast(x), own, wants_x=True, wants=(True, first)),
            gradients.linear(cast(dy), cast(x), own, wants_x=False, wants=(True, True), add_to=add_to),
            gradients.bias(cast(dy)),
        )

    check(function)


@given(seeds, st.integers(1, 40), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), paddings)
@settings(max_examples=30)
def test_linear_grouped(seed: int, rows: int, groups: int, n: int, k: int, padding: int) -> None:
    noise = Noise(seed, padding)
    weights, x, dy = noise.weights(groups, n, k), noise(rows, groups, k), noise(rows, groups, n)
    wants = [index % 2 == 0 for index in range(groups)]
    check(
        lambda gradients, cast: gradients.linear_grouped(
            cast(dy), cast(x), weights if gradients is not REFERENCE else double(weights), wants=wants
        )
    )


@given(seeds, st.integers(1, 300), st.integers(1, 130), paddings)
@settings(max_examples=30)
def test_row_ops(seed: int, rows: int, dim: int, padding: int) -> None:
    noise = Noise(seed, padding)
    flat_x, flat_dy = noise(rows, dim, scale=4), noise(rows, dim)
    heads_x, heads_dy = noise(rows, 3, dim), noise(rows, 3, dim)
    weight = torch.randn(dim)
    gate_up = noise(rows, 2 * dim, scale=10)
    tokens = torch.randint(0, 7, (rows,), dtype=torch.int32, generator=noise.generator)
    check(lambda gradients, cast: gradients.rms_norm(cast(flat_dy), cast(flat_x), cast(weight), 1e-5))
    check(lambda gradients, cast: gradients.rms_norm(cast(heads_dy), cast(heads_x), cast(weight), 1e-5))
    check(lambda g, cast: g.rms_norm(cast(flat_dy), cast(flat_x), cast(weight), 1e-5, shift=1.0))
    check(lambda g, cast: g.silu(cast(flat_dy), cast(flat_x)))
    for activation in ACTIVATIONS:
        check(lambda gradients, cast, a=activation: gradients.glu(cast(flat_dy), cast(gate_up), a))
    check(lambda gradients, cast: gradients.embed(cast(flat_dy), tokens, 9))


@st.composite
def attention_cases(draw: st.DrawFn) -> tuple[AttentionSpec, int, int, list[tuple[int, int, int]]]:
    latent = draw(st.booleans())
    key_dim = draw(st.integers(1, 40))
    spec = AttentionSpec(
        layer=0,
        num_kv_heads=1 if latent else draw(st.integers(1, 3)),
        key_dim=key_dim,
        value_dim=draw(st.integers(1, key_dim if latent else 40)),
        latent=latent,
        scale=0.3,
        window=draw(st.sampled_from([None, 1, 7, 40])),
    )
    group = draw(st.integers(1, 9 if latent else 4))
    # a sequence: tokens cached before, new rows, blocks shared with the sequence before
    sequence = st.tuples(st.integers(0, 70), st.integers(1, 60), st.integers(0, 2))
    return spec, group, draw(st.sampled_from([16, 32, 48])), draw(st.lists(sequence, min_size=1, max_size=4))


@given(seeds, attention_cases(), paddings, st.booleans(), st.sampled_from([0, 0, 3, 20]))
@settings(max_examples=60)
def test_attention(
    seed: int,
    case: tuple[AttentionSpec, int, int, list[tuple[int, int, int]]],
    padding: int,
    sunk: bool,
    top_k: int,
) -> None:
    """Blocks scattered over the cache and shared; what was never stored is not a number."""
    spec, group, block_size, sequences = case
    noise = Noise(seed, padding)
    width = max(-(-(cached + new) // block_size) for cached, new, _ in sequences)
    tables = torch.randperm(width * len(sequences), generator=noise.generator).view(-1, width).int()
    filled = torch.zeros(tables.numel(), block_size, dtype=torch.bool)
    for index, (cached, new, shared) in enumerate(sequences):
        if index:
            full = min(shared, cached // block_size, sum(sequences[index - 1][:2]) // block_size)
            tables[index, :full] = tables[index - 1, :full]
        for position in range(cached + new):
            filled[tables[index, position // block_size], position % block_size] = True
    cache = KvCache.zeros(spec, num_blocks=tables.numel(), block_size=block_size, device=torch.device("cpu"))
    empty = ~filled
    cache.keys.copy_(noise(*cache.keys.shape))
    cache.keys.permute(0, 2, 4, 1, 3)[empty.unflatten(1, (-1, 16))] = float("nan")
    if cache.values is not None:
        cache.values.copy_(noise(*cache.values.shape))
        cache.values.transpose(1, 2)[empty] = float("nan")
    rows = RowPlan(
        torch.cat([torch.arange(cached, cached + new) for cached, new, _ in sequences]).int(),
        torch.arange(len(sequences)).repeat_interleave(torch.tensor([new for _, new, _ in sequences])).int(),
        tables,
    )
    heads, count = group * spec.num_kv_heads, len(rows.positions_T)
    q, dout = noise(count, heads, spec.key_dim), noise(count, heads, spec.value_dim)
    sinks = torch.randn(heads, generator=noise.generator) if sunk else None
    chosen = choices(seed, rows.positions_T, top_k)
    if top_k:
        spec = replace(spec, window=None)

    def function(gradients: Gradients, cast: Cast) -> Result:
        values = None if cache.values is None else cast(cache.values)
        dq, dcache, dsinks = gradients.attention(
            cast(dout),
            cast(q),
            KvCache(cast(cache.keys), values),
            rows,
            spec,
            sinks_N=None if sinks is None else cast(sinks),
            chosen_TK=chosen,
        )
        if gradients is REFERENCE:  # which lets what is not a number through, where it must be 0
            dcache.keys.nan_to_num_(0)
            if dcache.values is not None:
                dcache.values.nan_to_num_(0)
        kept = gradients.store(dcache, rows, clear=False)[:2]
        return dq, dcache, dsinks, kept, gradients.store(dcache, rows, clear=True)

    check(function)


@given(seeds, st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 50), paddings)
@settings(max_examples=30)
def test_lightning(seed: int, heads: int, key_dim: int, value_dim: int, length: int, padding: int) -> None:
    """A sequence, and a second one that goes on from its first block and so adds to its gradients."""
    noise = Noise(seed, padding)
    decays = torch.rand(heads, generator=noise.generator) * 0.5 + 0.5
    width = -(-length // 16)
    tables = torch.arange(2 * width).view(2, width).int()
    shared = min(1, length // 16)
    tables[1, :shared] = tables[0, :shared]
    rows = RowPlan(
        torch.tensor([*range(length), *range(16 * shared, length)], dtype=torch.int32),
        torch.tensor([0] * length + [1] * (length - 16 * shared), dtype=torch.int32),
        tables,
    )
    spec = LightningSpec(layer=0, num_heads=heads, key_dim=key_dim, value_dim=value_dim)
    cache = StateCache.zeros(spec, num_blocks=2 * width, block_size=16, device=OPS.device)
    count = len(rows.positions_T)
    q, k, v = noise(count, heads, key_dim), noise(count, heads, key_dim), noise(count, heads, value_dim)
    dout = noise(count, heads, value_dim)

    def function(gradients: Gradients, cast: Cast) -> Result:
        states = StateCache(cast(cache.states), 16)
        return gradients.lightning(cast(dout), cast(q), cast(k), cast(v), states, rows, cast(decays))

    check(function, tolerance=1e-4)


@given(seeds, st.integers(1, 60), st.booleans(), st.booleans(), st.integers(1, 5))
@settings(max_examples=40)
def test_route(seed: int, rows: int, sigmoid: bool, renormalize: bool, top_k: int) -> None:
    noise = Noise(seed)
    scoring = "sigmoid" if sigmoid else "softmax"
    spec = RouteSpec(top_k=top_k, scoring=scoring, renormalize=renormalize, scale=2.5)
    logits, dweights, chosen = noise(rows, 11, scale=3), noise(rows, top_k), noise.choices(rows, top_k, 11)
    check(lambda gradients, cast: gradients.route(cast(dweights), cast(logits), chosen, spec))


@given(
    seeds,
    st.integers(1, 60),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 3),
    paddings,
    st.booleans(),
)
@settings(max_examples=40)
def test_moe(seed: int, rows: int, dim: int, width: int, top_k: int, padding: int, biased: bool) -> None:
    """More experts than are chosen, so that some have no rows."""
    noise = Noise(seed, padding)
    sizes = (width, width, dim)
    biases = ExpertBiases(*(torch.randn(8, n, generator=noise.generator) for n in sizes)) if biased else None
    experts = ExpertWeights(
        noise.weights(8, width, dim),
        noise.weights(8, width, dim),
        noise.weights(8, dim, width),
        biases,
        ACTIVATIONS[seed % 4],
    )
    chosen, weights = noise.choices(rows, top_k, 8), torch.rand(rows, top_k, generator=noise.generator)
    x, dy, residual = noise(rows, dim), noise(rows, dim), noise(rows, dim)
    forward, kept = OURS[0].moe_forward(x, chosen, weights, experts, residual)
    assert torch.equal(forward, OPS.moe(x, chosen, weights, experts, residual=residual))

    def function(gradients: Gradients, cast: Cast) -> Result:
        if gradients is REFERENCE:
            cast_biases = ExpertBiases(*map(cast, biases)) if biases else None
            doubled = ExpertWeights(*map(double, experts.matrices), cast_biases, experts.activation)
            return gradients.moe(
                cast(dy), cast(x), chosen, cast(weights), doubled, None, wants=(True, True, rows % 2 == 0)
            )
        return gradients.moe(dy, x, chosen, weights, experts, kept, wants=(True, True, rows % 2 == 0))

    check(function, tolerance=5e-5)


@given(
    seeds,
    st.integers(1, 9),
    st.sampled_from([0.3, 1.0, 1.7]),
    st.sampled_from([0, 1, 5, 99]),
    st.sampled_from([1.0, 0.9, 0.4]),
    st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=60)
def test_logprobs(seed: int, rows: int, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    noise = Noise(seed)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    logits, dlogprobs = noise(rows, 50, scale=3), noise(rows)
    targets = torch.randint(0, 50, (rows,), dtype=torch.int32, generator=noise.generator)
    check(lambda g, cast: g.logprobs(cast(dlogprobs), cast(logits).clone(), targets, params))
    check(lambda g, cast: g.logprobs(cast(dlogprobs), cast(logits).clone(), targets, None))


@given(seeds, st.integers(1, 20), st.sampled_from([1, 6, 100]), st.floats(0, 1))
@settings(max_examples=30)
def test_head(seed: int, rows: int, chunk: int, signal: float) -> None:
    """Kept and recomputed logits give one gradient, for the first and for a second time."""
    noise = Noise(seed)
    targets = torch.randint(0, 30, (rows,), dtype=torch.int32, generator=noise.generator)
    (head,) = noise.weights(1, 30, 8)
    x, dlogprobs = noise(rows, 8), noise(rows)
    dlogprobs[torch.rand(rows, generator=noise.generator) > signal] = 0
    matrix = dense(head)

    def gradients(ops: Ops, dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
        own = [tensor.to(dtype).requires_grad_() for tensor in (x, matrix)]
        logprobs = ops.logprobs(own[0], head.with_source(own[1]), targets, chunk=chunk).logprobs_T
        grad = dlogprobs.to(dtype)
        return [torch.autograd.grad(logprobs, own, grad, retain_graph=True) for _ in range(2)]

    (expected, _) = gradients(TrainingOps(TorchOps()), torch.float64)
    for found in (pair for ops in TRAINING for pair in gradients(ops, torch.float32)):
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-5)
