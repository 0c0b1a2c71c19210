"""The ops that a forward pass is made of, and the order in which each of them rounds.

Shape suffixes: T packed rows, D hidden, N query heads, G key/value heads, H key dim of a head, V value dim of
a head (or vocabulary, for logits), F feed-forward, E experts, K chosen experts or a contraction, S sequences,
B cache blocks, R rope pairs.

The law of exactness. What an element of a result is depends on the operands of that element alone, never on
how many rows came along, where a tile ended, how many threads ran or which instruction set they used:

- A *chain* `chain(a, b)` is a matrix product's inner loop: one float32 accumulator from 0, index ascending,
  one fused multiply-add a step.
- A *16-lane sum* is any other long sum: lane i adds the terms whose index is i modulo 16, ascending, from 0;
  then lanes i and i+8 are added, then i and i+4, i+2, i+1.
- `exp`, `log`, `sin` and `cos` are polynomials of our own; every other operation rounds once, to float32.

`Ops` has two implementations: `mohist.kernels.native.NativeOps` (C++, keeps the law bit for bit) and
`mohist.kernels.twin.TorchOps` (PyTorch on any device, close but not bound to any order).

Operands are float32. A float operand may be a view whose rows lie apart (a slice of a fused projection's
output): only its last dimension must be contiguous. Results are new contiguous tensors, unless said
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mohist.kernels.activation import SILU, Activation
from mohist.kernels.memory import recycled, zero_pages
from mohist.kernels.sampling import SampledRows, SampleRow, TokenScores
from mohist.kernels.weight import PANEL, Weight
from mohist.types import SamplingParams

__all__ = [
    "LANES",
    "AttentionSpec",
    "CacheSpec",
    "ExpertBiases",
    "ExpertWeights",
    "IndexSpec",
    "KvCache",
    "LightningSpec",
    "Ops",
    "RouteSpec",
    "RowPlan",
    "StateCache",
    "new_cache",
]

LANES = PANEL
"""Tokens of a key group, rows of a weight panel and lanes of a sum: one wide vector of float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionSpec:
    """What one layer's attention looks like, whoever stores its keys."""

    layer: int
    """Names the layer's cache; the kernels do not read it."""
    num_kv_heads: int
    key_dim: int
    value_dim: int
    latent: bool = False
    """The value of a token is the first `value_dim` entries of its key (multi-head latent attention)."""
    scale: float
    """Multiplies every score q.k."""
    window: int | None = None
    """A query at position p sees keys p-window+1..p; None sees all up to p."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LightningSpec:
    """What one layer's linear attention looks like, whoever stores its states."""

    layer: int
    """Names the layer's cache; the kernels do not read it."""
    num_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteSpec:
    """How a mixture-of-experts layer chooses and weighs the experts of a row."""

    top_k: int
    """Experts a row."""
    scoring: Literal["sigmoid", "softmax"]
    num_groups: int = 1
    """Experts lie in this many equal runs, of which ..."""
    top_groups: int = 1
    """... only the best so many are eligible."""
    group_score: Literal["top2", "max"] = "max"
    """A group is as good as its two best experts together, or as its best."""
    renormalize: bool
    """Divide the chosen scores by their sum."""
    scale: float = 1.0
    """Multiplies the weights last."""


class ExpertBiases(NamedTuple):
    """What every expert adds to its gates, ups and downs."""

    gate_EF: Tensor
    up_EF: Tensor
    down_ED: Tensor


class ExpertWeights(NamedTuple):
    """What the experts of a layer are made of: of each kind a matrix an expert, alike in shape and format."""

    gate: Sequence[Weight]
    up: Sequence[Weight]
    down: Sequence[Weight]
    biases: ExpertBiases | None = None
    activation: Activation = SILU

    @property
    def matrices(self) -> tuple[Sequence[Weight], Sequence[Weight], Sequence[Weight]]:
        """Gates, ups and downs."""
        return self.gate, self.up, self.down


@dataclass(frozen=True, slots=True)
class KvCache:
    """One layer's keys and values in blocks of `block_size` tokens, a multiple of 16."""

    keys: Tensor
    """float32 [B, G, block_size/16, H, 16]: groups of 16 tokens transposed, so scores vectorise over keys."""
    values: Tensor | None
    """float32 [B, G, block_size, V]; None when latent."""

    @property
    def block_size(self) -> int:
        """Tokens a block."""
        return self.keys.shape[2] * LANES

    @classmethod
    def zeros(
        cls,
        spec: AttentionSpec,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        brief: bool = False,
    ) -> KvCache:
        """A cache of `num_blocks` blocks of `block_size` tokens for the layer that `spec` describes.

        A `brief` one is for a single pass, in memory that is used again; others take theirs page by page.
        """
        assert block_size % LANES == 0, f"block_size {block_size} is not a multiple of {LANES}"
        groups = spec.num_kv_heads
        zeros = _brief_zeros if brief else _zeros
        keys = zeros(num_blocks, groups, block_size // LANES, spec.key_dim, LANES, device=device)
        if spec.latent:
            return cls(keys, None)
        return cls(keys, zeros(num_blocks, groups, block_size, spec.value_dim, device=device))


def _brief_zeros(*shape: int, device: torch.device) -> Tensor:
    return recycled.empty(*shape).zero_() if device.type == "cpu" else torch.zeros(shape, device=device)


@dataclass(frozen=True, slots=True)
class StateCache:
    """One layer's states of linear attention: each block has that of its last computed position."""

    states: Tensor
    """float32 [B, N, ceil(V/16), H, 16]."""
    block_size: int
    """Tokens a block."""

    @classmethod
    def zeros(
        cls,
        spec: LightningSpec,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        brief: bool = False,
    ) -> StateCache:
        """See `KvCache.zeros`."""
        panels = -(-spec.value_dim // LANES)
        zeros = _brief_zeros if brief else _zeros
        states = zeros(num_blocks, spec.num_heads, panels, spec.key_dim, LANES, device=device)
        return cls(states, block_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexSpec:
    """What one layer's choice of keys looks like, whoever stores the keys of its index."""

    layer: int
    """Names the layer's cache; the kernels do not read it."""
    key_dim: int
    top_k: int
    """Keys that a row attends to."""


CacheSpec = AttentionSpec | IndexSpec | LightningSpec
"""What a mixer keeps of every token; a layer may have several."""


def new_cache(
    spec: CacheSpec,
    *,
    num_blocks: int,
    block_size: int,
    device: torch.device,
    brief: bool = False,
) -> KvCache | StateCache:
    """An empty cache of the kind and shape that a layer needs (see `KvCache.zeros`)."""
    if isinstance(spec, LightningSpec):
        return StateCache.zeros(
            spec, num_blocks=num_blocks, block_size=block_size, device=device, brief=brief
        )
    if isinstance(spec, IndexSpec):
        spec = AttentionSpec(
            layer=spec.layer, num_kv_heads=1, key_dim=spec.key_dim, value_dim=0, latent=True, scale=1.0
        )
    return KvCache.zeros(spec, num_blocks=num_blocks, block_size=block_size, device=device, brief=brief)


def _zeros(*shape: int, device: torch.device) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, device=device)
    pages = zero_pages(math.prod(shape) * torch.float32.itemsize)
    # detached, since autograd cannot follow in-place writes into two views of something else
    return pages.view(torch.float32).view(shape).detach()


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Whose rows these are, and where the keys of their sequences live.

    Token j of sequence s is in block `tables_SB[s, j // block_size]`. Rows of one sequence are consecutive
    and their positions ascend by one.
    """

    positions_T: Tensor
    """int32 [T]: position of each row in its sequence."""
    sequence_T: Tensor
    """int32 [T]: row of `tables_SB` that each row belongs to, ascending."""
    tables_SB: Tensor
    """int32 [S, B]: block ids; entries past a sequence's last block are not read."""


class Ops(Protocol):
    """The forward pass's vocabulary. See the module's docstring for what the words below mean."""

    name: str
    """Shown to people: "native avx512", "torch cuda"."""
    exact: bool
    """Whether these ops keep the law of exactness."""
    device: torch.device
    """Where operands and results live."""

    def embed(self, weight: Weight, tokens_T: Tensor) -> Tensor:
        """Rows of a table: [T, D], row t is `weight`'s row `tokens_T[t]` (int32) as float32.

        A quantised value is one multiplication d*q (q4_1, q4_k and q5_k: then + m; `linear` has d and m).
        """
        ...

    def linear(
        self,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """x times each matrix transposed, side by side: [T, sum of out_features].

        y = chain over k of x_k * w_nk; then y + bias_n if given; then residual_tn + y if given.
        bf16 weights are widened exactly. For quantised ones, each block of 32 entries of a row of x becomes
        integers, with most = 32639 for q8_0 and most = 127 for all others:

            d_x = max|x| / most;  r = 1 / d_x (0 if d_x is 0);  q_x = round half to even(x * r)

        and, over blocks ascending, with the exact integer sum i = sum of q_x * q_w (q_w of q4_0 less 8),

            y = fma(d_w * d_x, i, y);  q4_1 then y = fma(m_w, d_x * sum of q_x, y)

        q4_k and q5_k are as q4_1, with d_w = d * scale and m_w = -(dmin * minimum). q6_k has a scale for each
        half of a block, which multiplies its part of the sum i, exactly (q_w is the stored number less 32).
        Last, for each of a matrix's `terms`, in the rows of the term and the columns of the matrix,

            y = y + chain over r of z_r * b_nr,  z_r = chain over k of x_k * a_rk
        """
        ...

    def linear_grouped(self, x_TNK: Tensor, weights: Sequence[Weight]) -> Tensor:
        """Head n of x times `weights[n]` transposed, as in `linear`: [T, N, out_features].

        The matrices agree in format and shape.
        """
        ...

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        *,
        shift: float = 0.0,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Normalise rows: (x * r) * (weight + shift), r = 1 / sqrt(s / D + eps).

        s is the 16-lane sum of x*x (by fma). x is [T, D] or [T, N, H] (every head alone); weight [D] or [H].
        Then, if x is [T, D], residual + that if given.
        """
        ...

    def rope_angles(
        self, positions_T: Tensor, inv_freq_R: Tensor, scales_S: Tensor, *, period: int = 1
    ) -> Tensor:
        """cos and sin of position * inv_freq: [T, 2, R], cos first.

        The angle is the float64 product of the int32 position and the float32 frequency; cos and sin are
        rounded to float32 and then multiplied by number `position // period` of `scales_S`, or by the last.
        """
        ...

    def rope(self, x_TNH: Tensor, cos_sin_T2R: Tensor, *, interleaved: bool, offset: int = 0) -> Tensor:
        """Rotate dims [offset, offset + 2R) of every head, copy the others: [T, N, H].

        Pairs (a, b) are entries (i, i + R) of that range, or (2i, 2i + 1) when `interleaved`; in their place
        come a' = fma(a, cos, -(b * sin)) and b' = fma(b, cos, a * sin).
        """
        ...

    def glu(self, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """The gated halves g, u of every row, g first: [T, F].

        silu          (g / (1 + exp(-g))) * u
        gelu_tanh     (g / (1 + exp(-(g * fma(g * g, b, a))))) * u, a = 2 sqrt(2/pi) and b = 0.044715 a,
                      which is u * g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3)))
        sigmoid       (1 / (1 + exp(-g))) * u
        clamped_silu  (u' + 1) * (g' / (1 + exp(-(steepness * g')))), g' = min(g, limit), u' within +-limit
        """
        ...

    def scale(self, x_TD: Tensor, factor: float, *, residual: Tensor | None = None) -> Tensor:
        """x * factor, then residual + that if given: [T, D]."""
        ...

    def silu(self, x_TD: Tensor) -> Tensor:
        """x / (1 + exp(-x)): [T, D]."""
        ...

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """a and b side by side along the last dimension; their other dimensions (one or two) agree."""
        ...

    def store(self, cache: KvCache, rows: RowPlan, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        """Write every row's key and value (None when latent) where `rows` says, in place."""
        ...

    def attention(
        self,
        q_TNH: Tensor,
        cache: KvCache,
        rows: RowPlan,
        spec: AttentionSpec,
        *,
        sinks_N: Tensor | None = None,
        chosen_TK: Tensor | None = None,
    ) -> Tensor:
        """Causal softmax attention of every row over the stored keys of its sequence: [T, N, V].

        For the row at position p and head n, which reads key/value head n // (N / G), with token j running
        over max(0, p - window + 1)..p:

            s_j = scale * (chain over d of q_d * k_jd);  m = max s_j;  e_j = exp(s_j - m)
            out_d = (chain over j of e_j * v_jd) / (16-lane sum of e_j, lane j modulo 16)

        With sinks, m is at least the head's sink and the sum has exp(sink - m) added to it last. A row at a
        position of at least K sees only the K positions in its row of `chosen_TK` (see `select`).
        """
        ...

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        """((x - m) * (1 / sqrt(s / D + eps))) * weight + bias: [T, D].

        m is the 16-lane sum of x divided by D, s that of (x - m) * (x - m) by fma. It has no gradient.
        """
        ...

    def select(self, q_TIJ: Tensor, weights_TI: Tensor, cache: KvCache, rows: RowPlan, top_k: int) -> Tensor:
        """The positions that every row attends to: int32 [T, top_k], ascending.

        Of a cache with one head of keys and no values. Position j scores the chain over index heads i of
        weights_i * max(0, chain over d of q_id * k_jd); those with the largest scores are chosen, the lower
        position on a tie. Rows at positions below `top_k` see all; what is written for them is left open.
        It has no gradient.
        """
        ...

    def lightning(
        self,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
    ) -> Tensor:
        """Linear attention with a decay, by a state S [H, V] for each head: [T, N, V].

        Rows are taken in order. For the row at position p, with S that of position p - 1 (0 at position 0),

            S_dv = fma(k_d, v_v, decay * S_dv);  out_v = chain over d of q_d * S_dv

        The block of position p - 1 is where S is read, the block of position p where it is left. So a full
        block holds the state after its last position, from which any sequence that begins alike can go on;
        positions must not be taken back.
        """
        ...

    def route(self, logits_TE: Tensor, spec: RouteSpec, *, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose experts: (experts_TK int32, weights_TK float32), best first, ties to the lower id.

        Score s = 1 / (1 + exp(-logit)), or exp(logit - max) / (16-lane sum of those); choice c = s + bias.
        Experts lie in `num_groups` equal runs; a group scores the sum of its two largest c (larger first) or
        its largest; only the `top_groups` best groups stay eligible (ties to the lower group).
        A chosen expert weighs its s; when `renormalize`, s / (sum + 1e-20), the sum running over the chosen
        in order; then times `scale`.
        """
        ...

    def moe(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        *,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Weighted sum of every row's chosen feed-forwards: [T, D].

        y_k = linear(glu(linear(x, [gate[e], up[e]])), [down[e]]) with e = experts_TK[t, k], each `linear`
        with the expert's bias if it has any;
        acc = fma(weights[t, k], y_k, acc) over k ascending from 0; then residual + acc if given.
        """
        ...

    def logprobs(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None = None,
        *,
        chunk: int,
    ) -> TokenScores:
        """Logprobs and entropies [T] of the token after each row, from `linear(x, [head])`.

        Of int32 `targets_T`, under the softmax of those logits or, given `params` without penalties and with
        a temperature over 0, under the distribution that they sample: `mohist.kernels.sampling` has the
        definition. Logits exist for no more than `chunk` rows at a time, here and in the backward pass.
        """
        ...

    def sample(self, logits_TV: Tensor, rows: Sequence[SampleRow]) -> SampledRows:
        """Draw a token for every row of logits; `mohist.kernels.sampling` holds the definition."""
        ...
