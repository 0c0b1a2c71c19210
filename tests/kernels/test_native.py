"""The fast kernels equal their scalar definition bit for bit, whatever the shapes, strides and threads."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mohist.kernels.abi import library_path
from mohist.kernels.activation import GELU_TANH, SIGMOID, SILU, Activation
from mohist.kernels.native import NativeOps
from mohist.kernels.ops import (
    AttentionSpec,
    ExpertBiases,
    ExpertWeights,
    IndexSpec,
    KvCache,
    LightningSpec,
    RouteSpec,
    RowPlan,
    StateCache,
    new_cache,
)
from mohist.kernels.sampling import SampleRow, sample_twin, score_twin
from mohist.kernels.twin import TorchOps
from mohist.kernels.weight import Weight, WeightFormat, group_values, is_quantized
from mohist.types import SamplingParams
from tests.kernels.test_weight import random_rows

PATH = library_path()
if PATH is None:
    pytest.skip("the C++ kernels were not built", allow_module_level=True)

FAST = [NativeOps(PATH, threads) for threads in (1, 2)]
DEFINITION = NativeOps(PATH, 1, definition=True)
FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)

ACTIVATIONS = (SILU, GELU_TANH, SIGMOID, Activation(kind="clamped_silu", steepness=1.702, limit=2.5))

IDENTITY = Weight.from_dense(torch.eye(70))
"""Turns what is given as hidden states into logits, exactly."""

seeds = st.integers(0, 2**32 - 1)
formats = st.sampled_from(FORMATS)


def noise(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def make_weight(seed: int, weight_format: WeightFormat, n: int, k: int) -> Weight:
    if not is_quantized(weight_format):
        return Weight.from_dense(noise(seed, n, k), weight_format)
    return Weight.from_rows(weight_format, random_rows(weight_format, n, k, seed))


def width_of(weight_format: WeightFormat, least: int = 1) -> int:
    """The smallest width of at least `least` that matrices of the format can have."""
    group = group_values(weight_format)
    return -(-least // group) * group


def strided(x: Tensor, padding: int) -> Tensor:
    """The same values with rows further apart."""
    if not padding:
        return x
    wide = torch.full((*x.shape[:-1], x.shape[-1] + padding), float("nan"))
    wide[..., : x.shape[-1]] = x
    return wide[..., : x.shape[-1]]


@given(
    seeds,
    formats,
    st.integers(1, 70),
    st.integers(1, 90),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_linear(
    seed: int, weight_format: WeightFormat, rows: int, n: int, blocks: int, extra: bool, padding: int
) -> None:
    k = blocks * group_values(weight_format) if is_quantized(weight_format) else 32 * blocks - padding
    weights = [make_weight(seed + i, weight_format, n + 7 * i, k) for i in range(2)]
    width = sum(w.out_features for w in weights)
    x = strided(noise(seed + 9, rows, k), padding)
    bias = noise(seed + 5, width) if extra else None
    residual = strided(noise(seed + 6, rows, width), padding) if extra else None
    expected = DEFINITION.linear(x, weights, bias=bias, residual=residual)
    for ops in FAST:
        assert torch.equal(ops.linear(x, weights, bias=bias, residual=residual), expected)
        alone = ops.linear(x[-1:], weights, bias=bias, residual=None if residual is None else residual[-1:])
        assert torch.equal(alone, expected[-1:])


@given(seeds, st.permutations(FORMATS), st.integers(1, 20), st.integers(1, 40))
@settings(deadline=None, max_examples=10)
def test_linear_of_many_formats(seed: int, order: list[WeightFormat], rows: int, n: int) -> None:
    weights = [make_weight(seed + i, name, n, 256) for i, name in enumerate(order)]
    x = noise(seed, rows, 256)
    expected = torch.cat([DEFINITION.linear(x, [weight]) for weight in weights], dim=1)
    for ops in FAST:
        assert torch.equal(ops.linear(x, weights), expected)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_largest_sums_of_q8_0(rows: int) -> None:
    """Quants of -128, and activations at both ends of their range."""
    block = torch.cat((torch.ones(1).half().view(torch.uint8), torch.full((32,), 128, dtype=torch.uint8)))
    weight = Weight.from_rows("q8_0", block.repeat(17, 3))
    x = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(32).repeat(rows, 1)
    x[:, ::2] *= 0.999
    expected = DEFINITION.linear(x, [weight])
    assert torch.allclose(expected, -128 * x.sum(1, keepdim=True).expand(rows, 17))
    for ops in FAST:
        assert torch.equal(ops.linear(x, [weight]), expected)


@given(seeds, formats, st.integers(1, 20), st.integers(1, 5), st.integers(1, 40))
@settings(deadline=None, max_examples=30)
def test_linear_grouped(seed: int, weight_format: WeightFormat, rows: int, groups: int, n: int) -> None:
    k = width_of(weight_format, 64)
    weights = [make_weight(seed + g, weight_format, n, k) for g in range(groups)]
    x = strided(noise(seed, rows, groups, k), 5)
    expected = DEFINITION.linear_grouped(x, weights)
    for ops in FAST:
        assert torch.equal(ops.linear_grouped(x, weights), expected)


@given(seeds, formats, st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_embed(seed: int, weight_format: WeightFormat, vocab: int) -> None:
    weight = make_weight(seed, weight_format, vocab, 2 * width_of(weight_format))
    tokens = torch.arange(vocab, dtype=torch.int32).flip(0)
    expected = DEFINITION.embed(weight, tokens)
    assert torch.equal(expected, weight.to_dense().flip(0))
    for ops in FAST:
        assert torch.equal(ops.embed(weight, tokens), expected)


@given(seeds, st.integers(1, 40), st.integers(1, 130), st.integers(0, 4))
@settings(deadline=None, max_examples=30)
def test_row_ops(seed: int, rows: int, dim: int, padding: int) -> None:
    x, weight = strided(noise(seed, rows, dim, scale=4), padding), noise(seed + 1, dim)
    heads = strided(noise(seed, rows, 3, 2 * dim), padding)
    positions = torch.randint(0, 1 << 20, (rows,), dtype=torch.int32)
    frequencies = torch.rand(dim)
    scales = torch.tensor([1.25, 1.5, 0.3])
    angles = DEFINITION.rope_angles(positions, frequencies, scales, period=1 << 18)
    offset = padding if padding <= dim else 0
    turned = angles[..., : (2 * dim - offset) // 2].contiguous()
    for ops in FAST:
        for residual in (None, strided(noise(seed + 1, rows, dim), padding)):
            expected = DEFINITION.rms_norm(x, weight, 1e-5, residual=residual)
            assert torch.equal(ops.rms_norm(x, weight, 1e-5, residual=residual), expected)
        head_weight = noise(seed, 2 * dim)
        assert torch.equal(
            ops.rms_norm(heads, head_weight, 1e-6), DEFINITION.rms_norm(heads, head_weight, 1e-6)
        )
        assert torch.equal(ops.rope_angles(positions, frequencies, scales, period=1 << 18), angles)
        for interleaved in (False, True):
            expected = DEFINITION.rope(heads, turned, interleaved=interleaved, offset=offset)
            assert torch.equal(ops.rope(heads, turned, interleaved=interleaved, offset=offset), expected)
        wide = strided(noise(seed, rows, 2 * dim, scale=30), padding)
        for activation in ACTIVATIONS:
            assert torch.equal(ops.glu(wide, activation), DEFINITION.glu(wide, activation))
        shifted = DEFINITION.rms_norm(x, weight, 1e-5, shift=1.0)
        assert torch.equal(ops.rms_norm(x, weight, 1e-5, shift=1.0), shifted)
        assert torch.equal(ops.silu(x), DEFINITION.silu(x))
        layer_normed = DEFINITION.layer_norm(x, weight, weight, 1e-6)
        assert torch.equal(ops.layer_norm(x, weight, weight, 1e-6), layer_normed)
        assert torch.equal(ops.scale(x, 0.7), DEFINITION.scale(x, 0.7))
        assert torch.equal(ops.scale(x, 0.7, residual=x), DEFINITION.scale(x, 0.7, residual=x))
        assert torch.equal(ops.concat(heads, heads[..., :1]), DEFINITION.concat(heads, heads[..., :1]))
        assert torch.equal(ops.concat(x, x), torch.cat((x, x), dim=-1))


@st.composite
def attention_cases(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[int, int]]]:
    kv_heads = draw(st.integers(1, 3))
    latent = draw(st.booleans())
    shape = {
        "kv_heads": 1 if latent else kv_heads,
        "group": draw(st.integers(1, 9 if latent else 4)),
        "key_dim": draw(st.integers(1, 40)),
        "value_dim": draw(st.integers(1, 40)),
        "latent": latent,
        "block_size": draw(st.sampled_from([16, 32, 48])),
        "window": draw(st.sampled_from([0, 1, 7, 40])),
        "sinks": draw(st.booleans()),
        "top_k": draw(st.sampled_from([0, 0, 1, 5, 20])),
        "seed": draw(seeds),
    }
    if latent:
        shape["value_dim"] = min(shape["value_dim"], shape["key_dim"])
    sequences = draw(st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), min_size=1, max_size=4))
    return shape, sequences


def choices(seed: int, positions_T: Tensor, top_k: int) -> Tensor | None:
    """For every position that has so many before it, some of them, ascending; junk for the others."""
    if not top_k:
        return None
    chosen_TK = torch.full((len(positions_T), top_k), -(2**31), dtype=torch.int32)
    for row, position in enumerate(positions_T.tolist()):
        if position >= top_k:
            generator = torch.Generator().manual_seed(seed + position)
            chosen_TK[row] = torch.randperm(position + 1, generator=generator)[:top_k].sort().values.int()
    return chosen_TK


@given(attention_cases())
@settings(deadline=None, max_examples=80)
def test_attention(case: tuple[dict[str, int], list[tuple[int, int]]]) -> None:
    """Sequences with some positions cached and some new, their blocks scattered over the cache."""
    shape, sequences = case
    block_size, heads = shape["block_size"], shape["kv_heads"] * shape["group"]
    spec = AttentionSpec(
        layer=0,
        num_kv_heads=shape["kv_heads"],
        key_dim=shape["key_dim"],
        value_dim=shape["value_dim"],
        latent=bool(shape["latent"]),
        scale=0.3,
        window=shape["window"] or None,
    )
    sinks = noise(shape["seed"] + 7, heads, scale=3) if shape["sinks"] else None
    if shape["top_k"]:
        spec = replace(spec, window=None)
    most = max(-(-(cached + new) // block_size) for cached, new in sequences)
    order = torch.randperm(most * len(sequences), generator=torch.Generator().manual_seed(shape["seed"]))
    tables = order.view(len(sequences), most).int()

    def run(ops: NativeOps, chunk: int) -> Tensor:
        cache = KvCache.zeros(spec, num_blocks=len(order), block_size=block_size, device=torch.device("cpu"))
        cache.keys.fill_(float("nan"))  # what was never stored must never matter
        if cache.values is not None:
            cache.values.fill_(float("nan"))
        results = []
        for index, (cached, new) in enumerate(sequences):
            total = cached + new
            keys = noise(shape["seed"] + index, total, spec.num_kv_heads, spec.key_dim)
            values = (
                None
                if spec.latent
                else noise(shape["seed"] - index - 1, total, spec.num_kv_heads, spec.value_dim)
            )
            queries = noise(shape["seed"] + 50 + index, total, heads, spec.key_dim)
            starts = [*range(cached, total, chunk), total]
            for first, last in [(0, cached), *pairwise(starts)]:
                if first == last:
                    continue
                plan = RowPlan(
                    torch.arange(first, last, dtype=torch.int32),
                    torch.full((last - first,), index, dtype=torch.int32),
                    tables,
                )
                ops.store(cache, plan, keys[first:last], None if values is None else values[first:last])
                if first >= cached:
                    chosen = choices(shape["seed"], plan.positions_T, shape["top_k"])
                    out = ops.attention(
                        queries[first:last], cache, plan, spec, sinks_N=sinks, chosen_TK=chosen
                    )
                    results.append(out)
        return torch.cat(results)

    expected = run(DEFINITION, 1)
    assert expected.isfinite().all()
    for ops in FAST:
        for chunk in (1, 5, 64):
            assert torch.equal(run(ops, chunk), expected)


@given(
    seeds,
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 70), st.integers(1, 30)), min_size=1, max_size=3),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_select(
    seed: int, heads: int, key_dim: int, top_k: int, sequences: list[tuple[int, int]], ties: bool
) -> None:
    """What the definition chooses, and the twin where scores are whole numbers, so that ties abound."""
    spec = IndexSpec(layer=0, key_dim=key_dim, top_k=top_k)
    width = max(-(-(cached + new) // 16) for cached, new in sequences)
    order = torch.randperm(width * len(sequences), generator=torch.Generator().manual_seed(seed))
    tables = order.view(len(sequences), width).int()
    rounded = torch.round if ties else torch.clone
    cache = new_cache(spec, num_blocks=len(order), block_size=16, device=torch.device("cpu"))
    assert isinstance(cache, KvCache)
    cache.keys.fill_(float("nan"))  # what was never stored must never matter
    positions, owners = [], []
    for index, (cached, new) in enumerate(sequences):
        total = torch.arange(cached + new, dtype=torch.int32)
        plan = RowPlan(total, torch.full_like(total, index), tables)
        DEFINITION.store(cache, plan, rounded(noise(seed + index, len(total), 1, key_dim)), None)
        positions.append(total[cached:])
        owners.append(torch.full((new,), index, dtype=torch.int32))
    rows = RowPlan(torch.cat(positions), torch.cat(owners), tables)
    count = len(rows.positions_T)
    q, weights = rounded(noise(seed, count, heads, key_dim)), rounded(noise(seed + 1, count, heads))
    choosing = rows.positions_T >= top_k
    expected = DEFINITION.select(q, weights, cache, rows, top_k)[choosing]
    for ops in FAST:
        assert torch.equal(ops.select(q, weights, cache, rows, top_k)[choosing], expected)
    if ties:
        cache.keys.nan_to_num_(0)
        assert torch.equal(TorchOps().select(q, weights, cache, rows, top_k)[choosing], expected)


@given(
    seeds,
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(1, 90),
    st.sampled_from([16, 32]),
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.integers(0, 2),
)
@settings(deadline=None, max_examples=40)
def test_lightning(
    seed: int, heads: int, key_dim: int, value_dim: int, block_size: int, lengths: list[int], padding: int
) -> None:
    """Prefixes of one text, in calls of any size; the later ones go on from full blocks of the first."""
    spec = LightningSpec(layer=0, num_heads=heads, key_dim=key_dim, value_dim=value_dim)
    generator = torch.Generator().manual_seed(seed)
    decays, total = torch.rand(heads, generator=generator), max(lengths)
    width = -(-total // block_size)
    tables = torch.randperm(width * len(lengths), generator=generator).view(-1, width).int()
    plan = [(0, position) for position in range(lengths[0])]
    for index, length in enumerate(lengths[1:], 1):
        full = min(length, lengths[0]) // block_size
        tables[index, :full] = tables[0, :full]
        plan += ((index, position) for position in range(full * block_size, length))
    q, k = (strided(noise(seed + i, total, heads, key_dim), padding) for i in range(2))
    v = strided(noise(seed + 2, total, heads, value_dim), padding)

    def run(ops: NativeOps, size: int) -> Tensor:
        cache = StateCache.zeros(spec, num_blocks=tables.numel(), block_size=block_size, device=ops.device)
        cache.states.fill_(float("nan"))  # what was never stored must never matter
        parts = []
        for start in range(0, len(plan), size):
            sequence, position = torch.tensor(plan[start : start + size], dtype=torch.int32).T
            rows = RowPlan(position.contiguous(), sequence.contiguous(), tables)
            at = position.long()
            parts.append(ops.lightning(q[at], k[at], v[at], cache, rows, decays))
        return torch.cat(parts)

    expected = run(DEFINITION, 1)
    assert expected.isfinite().all()
    for ops in FAST:
        for size in (1, 7, 200):
            assert torch.equal(run(ops, size), expected)
    for i, (_, position) in enumerate(plan):
        if position < lengths[0]:
            assert torch.equal(expected[i], expected[position])


@given(
    seeds,
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
    st.sampled_from([(1, 1), (4, 2), (4, 3)]),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_route_and_moe(
    seed: int, rows: int, sigmoid: bool, biased: bool, groups: tuple[int, int], top_k: int
) -> None:
    experts = 8
    spec = RouteSpec(
        top_k=top_k,
        scoring="sigmoid" if sigmoid else "softmax",
        num_groups=groups[0],
        top_groups=groups[1],
        group_score="top2" if biased else "max",
        renormalize=sigmoid,
        scale=2.5,
    )
    logits, bias = noise(seed, rows, experts), noise(seed + 1, experts) if biased else None
    chosen, weights = DEFINITION.route(logits, spec, bias_E=bias)
    residual = noise(seed + 3, rows, 48)
    activation = ACTIVATIONS[seed % 4]
    for weight_format in FORMATS:
        dim, width = width_of(weight_format, 64), width_of(weight_format, 32)
        x = noise(seed + 2, rows, dim)
        biases = ExpertBiases(*(noise(seed + n, experts, n) for n in (width, width, 48))) if biased else None
        gate, up = (
            [make_weight(seed + 10 * j + e, weight_format, width, dim) for e in range(experts)]
            for j in (0, 1)
        )
        down = [make_weight(seed + 99 + e, weight_format, 48, width) for e in range(experts)]
        mlps = ExpertWeights(gate, up, down, biases, activation)
        expected = DEFINITION.moe(x, chosen, weights, mlps, residual=residual)
        for ops in FAST:
            fast_chosen, fast_weights = ops.route(logits, spec, bias_E=bias)
            assert torch.equal(fast_chosen, chosen)
            assert torch.equal(fast_weights, weights)
            found = ops.moe(x, chosen, weights, mlps, residual=residual)
            assert torch.equal(found, expected)
            alone = ops.moe(x[:1], chosen[:1], weights[:1], mlps, residual=residual[:1])
            assert torch.equal(alone, expected[:1])


@st.composite
def sample_rows(draw: st.DrawFn) -> SampleRow:
    vocab = 70
    penalized = draw(st.booleans())
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 1.7])),
        top_k=draw(st.sampled_from([0, 0, 1, 5, 200])),
        top_p=draw(st.sampled_from([1.0, 1.0, 0.9, 0.3, 1e-6])),
        min_p=draw(st.sampled_from([0.0, 0.0, 0.05, 0.7])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3])) if penalized else 1.0,
        presence_penalty=draw(st.sampled_from([0.0, 0.5])) if penalized else 0.0,
        frequency_penalty=draw(st.sampled_from([0.0, -0.25])) if penalized else 0.0,
        seed=draw(st.integers(0, 2**64 - 1)),
        top_logprobs=draw(st.sampled_from([0, 3])),
    )
    seen = (
        draw(st.dictionaries(st.integers(0, vocab - 1), st.integers(0, 3), max_size=8)) if penalized else {}
    )
    masks = (
        st.integers(0, 2**vocab - 1)
        | st.sampled_from([0, 2**vocab - 1])
        | st.integers(0, vocab - 1).map(lambda only: 1 << only)
    )
    mask = draw(st.none() | masks)
    allowed = None if mask is None else mask.to_bytes(9 + draw(st.integers(0, 3)), "little")
    return SampleRow(params, draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**20)), seen, allowed)


def may(row: SampleRow, token: int) -> bool:
    return row.allowed is None or bool(row.allowed[token // 8] >> token % 8 & 1)


@given(
    seeds, st.lists(sample_rows(), min_size=1, max_size=5), st.sampled_from([0.5, 3.0, 30.0]), st.booleans()
)
@settings(deadline=None, max_examples=150)
def test_sample(seed: int, rows: list[SampleRow], scale: float, ties: bool) -> None:
    logits = noise(seed, len(rows), 70, scale=scale)
    if ties:
        logits = logits.round()
    expected = DEFINITION.sample(logits, rows)
    drawn = [i for i, token in enumerate(expected.tokens) if token >= 0]
    targets = torch.tensor(expected.tokens, dtype=torch.int32)[drawn]
    for ops in FAST:
        assert ops.sample(logits, rows) == expected
        scored = ops.logprobs(logits[drawn], IDENTITY, targets, chunk=2).logprobs_T
        assert scored.tolist() == [expected.logprobs[i] for i in drawn]
    for i, row in enumerate(rows):
        if i not in drawn:
            assert row.allowed is not None
            assert not any(row.allowed)
            assert expected.logprobs[i] == expected.sampled_logprobs[i] == -math.inf
            continue
        assert may(row, expected.tokens[i])
        assert FAST[1].sample(logits[i : i + 1], [row]).tokens == expected.tokens[i : i + 1]
        unchanged = SamplingParams(
            temperature=1.0, seed=row.params.seed, top_logprobs=row.params.top_logprobs
        )
        if row.params == unchanged and (row.allowed is None or row.allowed == b"\xff" * 9):
            assert expected.sampled_logprobs[i] == expected.logprobs[i]


@given(
    seeds, st.lists(sample_rows(), min_size=1, max_size=5), st.sampled_from([0.5, 3.0, 30.0]), st.booleans()
)
def test_scoring_what_was_sampled(seed: int, rows: list[SampleRow], scale: float, ties: bool) -> None:
    """Scores under the sampling parameters equal what the sampler reported; likewise of tokens not drawn."""
    params = rows[0].params.replace(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    if params.temperature == 0:
        params = params.replace(temperature=0.8)
    logits = noise(seed, len(rows), 70, scale=scale)
    if ties:
        logits = logits.round()
    drawn = FAST[0].sample(logits, [SampleRow(params, row.sample, row.position, {}) for row in rows])
    for targets in (drawn.tokens, [69] * len(rows)):
        targets_T = torch.tensor(targets, dtype=torch.int32)
        expected = DEFINITION.logprobs(logits, IDENTITY, targets_T, params, chunk=2)
        for ops in FAST:
            found = ops.logprobs(logits, IDENTITY, targets_T, params, chunk=2)
            assert torch.equal(found.logprobs_T, expected.logprobs_T)
            assert torch.equal(found.entropies_T, expected.entropies_T)
        if targets == drawn.tokens:
            assert expected.logprobs_T.tolist() == drawn.sampled_logprobs
        twin = score_twin(logits, targets_T, params)
        torch.testing.assert_close(expected.entropies_T, twin.entropies_T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(expected.logprobs_T, twin.logprobs_T, rtol=1e-4, atol=1e-5)


def test_a_mask_is_a_smaller_vocabulary() -> None:
    """Masked logits are sampled as the same logits would be if no other token existed."""
    logits = noise(5, 1, 70, scale=3.0)
    few = [i for i in range(70) if i % 3]
    allowed = sum(1 << i for i in few).to_bytes(9, "little")
    only = torch.full_like(logits, -math.inf)
    only[:, few] = logits[:, few]
    for params in (
        SamplingParams(temperature=0.7, top_k=5),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
        SamplingParams(temperature=0),
    ):
        for position in range(20):
            masked = FAST[0].sample(logits, [SampleRow(params, 0, position, {}, allowed)])
            alone = FAST[0].sample(only, [SampleRow(params, 0, position, {})])
            assert (masked.tokens, masked.sampled_logprobs) == (alone.tokens, alone.sampled_logprobs)
            assert masked.logprobs != alone.logprobs


def test_where_nothing_is_left_nothing_is_drawn() -> None:
    logits = noise(5, 1, 70, scale=3.0)
    logits[0, 9] = -math.inf
    logits[0, 10] = math.nan
    for temperature in (0.0, 1.0):
        for token in (9, 10):
            params = SamplingParams(temperature=temperature)
            row = SampleRow(params, 0, 0, {}, (1 << token).to_bytes(9, "little"))
            for ops in (DEFINITION, *FAST):
                assert ops.sample(logits, [row]).tokens == [-1]
            assert sample_twin(logits, [row]).tokens == [-1]


def test_penalties_and_greedy_choices_are_not_scored() -> None:
    targets = torch.zeros(1, dtype=torch.int32)
    for params in (SamplingParams(presence_penalty=0.5), SamplingParams(temperature=0)):
        with pytest.raises(AssertionError, match="scored"):
            FAST[0].logprobs(noise(0, 1, 70), IDENTITY, targets, params, chunk=1)


def test_sampling_frequencies() -> None:
    """Gumbel-max draws the distribution: chi-squared over 20,000 draws of 40 tokens."""
    logits = noise(3, 1, 40, scale=1.5)
    draws = 20_000
    rows = [SampleRow(SamplingParams(seed=7), i % 100, i // 100, {}) for i in range(draws)]
    tokens = torch.tensor(FAST[1].sample(logits.expand(draws, 40), rows).tokens)
    expected = logits.softmax(-1)[0] * draws
    observed = torch.bincount(tokens, minlength=40)
    chi_squared = ((observed - expected) ** 2 / expected).sum().item()
    assert chi_squared < 80, chi_squared  # 39 degrees of freedom: above 80 once in 10,000 tries


@given(seeds, st.lists(sample_rows(), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_sample_twin(seed: int, rows: list[SampleRow]) -> None:
    """PyTorch and numpy draw the same tokens, their logprobs close."""
    logits = noise(seed, len(rows), 70, scale=3.0)
    twin, exact = sample_twin(logits, rows), DEFINITION.sample(logits, rows)
    assert twin.tokens == exact.tokens
    assert torch.allclose(torch.tensor(twin.logprobs), torch.tensor(exact.logprobs), atol=1e-5)
    assert torch.allclose(
        torch.tensor(twin.sampled_logprobs), torch.tensor(exact.sampled_logprobs), atol=1e-5
    )
    assert [[t for t, _ in row] for row in twin.top] == [[t for t, _ in row] for row in exact.top]


def test_tape_replays_with_new_contents() -> None:
    ops = FAST[1]
    weight, norm = make_weight(1, "q8_0", 48, 64), noise(2, 64)
    x = noise(3, 4, 64)

    def forward(x: Tensor) -> Tensor:
        return ops.linear(ops.rms_norm(ops.rms_norm(x, norm, 1e-5), norm, 1e-5), [weight])

    with ops.record() as tape:
        y = forward(x)
    with ops.record() as other:  # shares the arena with the first
        z = forward(x[:2])
    for seed in range(3):
        x.copy_(noise(seed, 4, 64))
        tape.replay()
        first = y.clone()
        other.replay()
        assert torch.equal(first, forward(x))
        assert torch.equal(y, first)
        assert torch.equal(z, first[:2])
