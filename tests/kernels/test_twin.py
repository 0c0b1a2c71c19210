"""The PyTorch twin against the definitions of `mohist.kernels.ops`, written out in loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mohist.kernels.ops import AttentionSpec, ExpertWeights, KvCache, RouteSpec, RowPlan
from mohist.kernels.twin import TorchOps
from mohist.kernels.weight import Weight, WeightFormat
from mohist.types import SamplingParams
from tests.kernels.test_weight import random_rows

OPS = TorchOps()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def close(actual: Tensor, expected: Tensor) -> None:
    largest = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=1e-6 * largest)


def quantised(weight_format: WeightFormat, num_rows: int, in_features: int) -> Weight:
    return Weight.from_rows(weight_format, random_rows(weight_format, num_rows, in_features))


@pytest.mark.parametrize("weight_format", ["f32", "bf16"])
def test_linear_is_a_product_of_what_is_stored(weight_format: WeightFormat) -> None:
    x, bias, residual = torch.randn(5, 24), torch.randn(40), torch.randn(5, 40)
    weights = [Weight.from_dense(torch.randn(n, 24), weight_format) for n in (17, 23)]
    matrix = torch.cat([weight.to_dense() for weight in weights])
    close(OPS.linear(x, weights), x @ matrix.T)
    close(OPS.linear(x, weights, bias=bias, residual=residual), residual + x @ matrix.T + bias)


@pytest.mark.parametrize("weight_format", ["q8_0", "q4_0", "q4_1"])
def test_linear_quantises_activations_by_blocks(weight_format: WeightFormat) -> None:
    x, weight = torch.randn(3, 64), quantised(weight_format, 20, 64)
    x[1, 32:] = 0
    most = 32639 if weight_format == "q8_0" else 127
    rounded = torch.zeros(3, 64, dtype=torch.float64)
    for row in range(3):
        for block in range(2):
            part = x[row, 32 * block : 32 * block + 32]
            scale = part.abs().max() / most
            if scale > 0:
                rounded[row, 32 * block : 32 * block + 32] = (part * (1 / scale)).round().double() * scale
    close(OPS.linear(x, (weight,)), rounded @ weight.to_dense().double().T)


def test_linear_takes_slices_of_wider_rows() -> None:
    wide, weight = torch.randn(4, 40), Weight.from_dense(torch.randn(8, 16))
    close(OPS.linear(wide[:, 8:24], (weight,)), wide[:, 8:24] @ weight.to_dense().T)


def test_linear_grouped_gives_every_head_its_matrix() -> None:
    x = torch.randn(4, 3, 12)
    weights = [Weight.from_dense(torch.randn(20, 12)) for _ in range(3)]
    expected = torch.stack([x[:, n] @ weights[n].to_dense().T for n in range(3)], dim=1)
    close(OPS.linear_grouped(x, weights), expected)


@pytest.mark.parametrize("weight_format", ["f32", "q8_0", "q4_1"])
def test_embed_looks_up_rows(weight_format: WeightFormat) -> None:
    weight = (
        Weight.from_dense(torch.randn(40, 32)) if weight_format == "f32" else quantised(weight_format, 40, 32)
    )
    tokens = torch.tensor([3, 39, 3], dtype=torch.int32)
    assert torch.equal(OPS.embed(weight, tokens), weight.to_dense()[tokens])


def test_rms_norm() -> None:
    x, weight = torch.randn(4, 3, 20), torch.randn(20)
    expected = x.double() / (x.double().pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    close(OPS.rms_norm(x, weight, 1e-5), expected)
    residual = torch.randn(4, 20)
    close(OPS.rms_norm(x[:, 0], weight, 1e-5, residual=residual), expected[:, 0] + residual)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("offset", [0, 3])
def test_rope_turns_pairs(interleaved: bool, offset: int) -> None:
    positions = torch.tensor([0, 7, 100_000], dtype=torch.int32)
    inv_freq = torch.tensor([1.0, 0.3, 0.001, 1e-5])
    cos_sin = OPS.rope_angles(positions, inv_freq, torch.tensor([1.25]))
    x = torch.randn(3, 2, 14)
    expected = x.double().clone()
    for t in range(3):
        for i in range(4):
            angle = int(positions[t]) * float(inv_freq[i])
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 4)
            cos, sin = 1.25 * math.cos(angle), 1.25 * math.sin(angle)
            first, second = x[t, :, offset + a].double(), x[t, :, offset + b].double()
            expected[t, :, offset + a] = first * cos - second * sin
            expected[t, :, offset + b] = second * cos + first * sin
    close(OPS.rope(x, cos_sin, interleaved=interleaved, offset=offset), expected)


def test_glu_and_concat() -> None:
    gate_up = torch.randn(3, 10) * 4
    gate, up = gate_up.double().chunk(2, dim=1)
    close(OPS.glu(gate_up), gate / (1 + (-gate).exp()) * up)
    a, b = torch.randn(3, 2, 4), torch.randn(3, 2, 5)
    assert torch.equal(OPS.concat(a, b), torch.cat((a, b), dim=2))


def fill(
    spec: AttentionSpec, lengths: list[int], tables: Tensor
) -> tuple[KvCache, list[Tensor], list[Tensor]]:
    """A cache of blocks of 16 with random keys and values of whole sequences, and those keys and values."""
    cache = KvCache.zeros(spec, num_blocks=int(tables.max()) + 1, block_size=16, device=OPS.device)
    keys = [torch.randn(length, spec.num_kv_heads, spec.key_dim) for length in lengths]
    values = [torch.randn(length, spec.num_kv_heads, spec.value_dim) for length in lengths]
    for s, length in enumerate(lengths):
        rows = RowPlan(torch.arange(length).int(), torch.full((length,), s).int(), tables)
        OPS.store(cache, rows, keys[s], None if spec.latent else values[s])
    return cache, keys, [k[..., : spec.value_dim] for k in keys] if spec.latent else values


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("latent", [False, True])
def test_attention_over_a_paged_cache(latent: bool, window: int | None) -> None:
    spec = AttentionSpec(
        layer=0,
        num_kv_heads=1 if latent else 2,
        key_dim=12,
        value_dim=8,
        latent=latent,
        scale=0.3,
        window=window,
    )
    lengths = [40, 3, 17]
    tables = torch.tensor([[7, 1, 4], [0, 0, 0], [2, 5, 0]], dtype=torch.int32)
    cache, keys, values = fill(spec, lengths, tables)
    positions = [*range(30, 40), 2, *range(17)]
    sequences = [0] * 10 + [1] + [2] * 17
    rows = RowPlan(torch.tensor(positions).int(), torch.tensor(sequences).int(), tables)
    q = torch.randn(len(positions), 4, 12)
    expected = torch.zeros(len(positions), 4, 8, dtype=torch.float64)
    for t, (position, s) in enumerate(zip(positions, sequences, strict=True)):
        start = 0 if window is None else max(0, position - window + 1)
        for head in range(4):
            group = head // (4 // spec.num_kv_heads)
            scores = 0.3 * (keys[s][start : position + 1, group].double() @ q[t, head].double())
            expected[t, head] = scores.softmax(0) @ values[s][start : position + 1, group].double()
    close(OPS.attention(q, cache, rows, spec), expected)


def test_attention_ignores_what_lies_past_a_row() -> None:
    spec = AttentionSpec(layer=0, num_kv_heads=1, key_dim=4, value_dim=4, scale=1.0)
    cache = KvCache.zeros(spec, num_blocks=1, block_size=16, device=OPS.device)
    cache.keys.fill_(1e30)
    assert cache.values is not None
    cache.values.fill_(1e30)
    rows = RowPlan(torch.tensor([0]).int(), torch.tensor([0]).int(), torch.tensor([[0]]).int())
    key, value = torch.randn(1, 1, 4), torch.randn(1, 1, 4)
    OPS.store(cache, rows, key, value)
    close(OPS.attention(torch.randn(1, 1, 4), cache, rows, spec), value)


def route_by_hand(logits: list[float], bias: list[float], spec: RouteSpec) -> tuple[list[int], list[float]]:
    if spec.scoring == "sigmoid":
        scores = [1 / (1 + math.exp(-x)) for x in logits]
    else:
        scores = [math.exp(x) / sum(map(math.exp, logits)) for x in logits]
    choice = [s + b for s, b in zip(scores, bias, strict=True)]
    size = len(logits) // spec.num_groups
    groups = [sorted(choice[g * size : (g + 1) * size], reverse=True) for g in range(spec.num_groups)]
    best = [sum(g[:2]) if spec.group_score == "top2" else g[0] for g in groups]
    kept = sorted(range(spec.num_groups), key=lambda g: -best[g])[: spec.top_groups]
    eligible = [e for e in range(len(logits)) if e // size in kept]
    chosen = sorted(eligible, key=lambda e: -choice[e])[: spec.top_k]
    total = sum(scores[e] for e in chosen) + 1e-20 if spec.renormalize else 1
    return chosen, [scores[e] / total * spec.scale for e in chosen]


@pytest.mark.parametrize(
    "spec",
    [
        RouteSpec(top_k=3, scoring="softmax", renormalize=False),
        RouteSpec(top_k=2, scoring="softmax", renormalize=True, scale=3.0),
        RouteSpec(top_k=4, scoring="softmax", num_groups=4, top_groups=2, renormalize=False, scale=16.0),
        RouteSpec(
            top_k=4,
            scoring="sigmoid",
            num_groups=4,
            top_groups=2,
            group_score="top2",
            renormalize=True,
            scale=2.5,
        ),
    ],
)
def test_route(spec: RouteSpec) -> None:
    logits, bias = torch.randn(9, 16), torch.randn(16) * 0.3
    experts, weights = OPS.route(logits, spec, bias_E=bias)
    assert experts.dtype == torch.int32
    for t in range(9):
        chosen, expected = route_by_hand(logits[t].tolist(), bias.tolist(), spec)
        assert experts[t].tolist() == chosen
        close(weights[t], torch.tensor(expected))


def test_route_breaks_ties_downwards() -> None:
    spec = RouteSpec(top_k=2, scoring="softmax", num_groups=2, top_groups=1, renormalize=True)
    experts, weights = OPS.route(torch.zeros(1, 8), spec, bias_E=None)
    assert experts.tolist() == [[0, 1]]
    assert weights.tolist() == [[0.5, 0.5]]


def test_moe_sums_the_chosen_experts() -> None:
    x, residual = torch.randn(6, 16), torch.randn(6, 16)
    gate, up = ([Weight.from_dense(torch.randn(24, 16)) for _ in range(4)] for _ in range(2))
    down = [Weight.from_dense(torch.randn(16, 24)) for _ in range(4)]
    experts = torch.stack([torch.randperm(4)[:2] for _ in range(6)]).int()
    weights = torch.rand(6, 2)
    expected = residual.double().clone()
    for t in range(6):
        for expert, weight in zip(experts[t].tolist(), weights[t].tolist(), strict=True):
            hidden = OPS.glu(OPS.linear(x[t : t + 1], (gate[expert], up[expert])))
            expected[t] += weight * OPS.linear(hidden, (down[expert],))[0]
    close(OPS.moe(x, experts, weights, ExpertWeights(gate, up, down), residual=residual), expected)


def test_logprobs() -> None:
    logits, targets = torch.randn(4, 30) * 10, torch.tensor([0, 29, 7, 7], dtype=torch.int32)
    scores = OPS.logprobs(logits, Weight.from_dense(torch.eye(30)), targets, chunk=3)
    expected = logits.double().log_softmax(1)
    close(scores.logprobs_T, expected[range(4), targets.long()])
    close(scores.entropies_T, -(expected.exp() * expected).sum(1))


def test_logprobs_of_what_is_kept() -> None:
    """Three tokens of five, at half the temperature; and the target, though it is not among them."""
    probabilities = torch.tensor([[0.1, 0.4, 0.3, 0.05, 0.15]])
    params = SamplingParams(temperature=0.5, top_k=3)
    for target, kept in ((1, [1, 2, 4]), (0, [0, 1, 2, 4])):
        squares = probabilities[0].double().square()
        expected = squares / squares[kept].sum()
        targets = torch.tensor([target], dtype=torch.int32)
        scores = OPS.logprobs(probabilities.log(), Weight.from_dense(torch.eye(5)), targets, params, chunk=1)
        close(scores.logprobs_T, expected[[target]].log())
        close(scores.entropies_T, -(expected * expected.log())[kept].sum()[None])
