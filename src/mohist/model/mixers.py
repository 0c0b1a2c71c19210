"""Token mixers: how a row reads other rows. They rotate queries and keys; `attend` knows where keys live.

Shape suffixes: T packed rows, D hidden, N query heads, G key/value heads, H head dim, L latent, V value dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mohist.kernels.activation import SIGMOID
from mohist.kernels.ops import AttentionSpec, CacheSpec, LightningSpec, Ops
from mohist.model.angles import Angles
from mohist.model.attend import Attend
from mohist.model.config import GqaConfig, LightningConfig, MlaConfig
from mohist.model.indexer import Indexer, index_spec
from mohist.model.rope import lightning_decays, mla_softmax_scale
from mohist.model.tensors import FusedVector, Matrix, Vector

__all__ = ["LatentAttention", "LightningAttention", "SoftmaxAttention", "cache_specs"]

_LATENT_EPS = 1e-6
"""Of the norms of MLA's latents, whatever the model's own epsilon (so in DeepSeek's code)."""
_LIGHTNING_EPS = 1e-6
"""Of the norm after linear attention, likewise (so in MiniMax's code)."""


def cache_specs(mixer: GqaConfig | MlaConfig | LightningConfig, layer: int) -> list[CacheSpec]:
    """What `attend` is told about a layer; its caches have the shapes that follow from it."""
    if isinstance(mixer, LightningConfig):
        return [_lightning_spec(mixer, layer)]
    specs: list[CacheSpec] = [_attention_spec(mixer, layer)]
    if isinstance(mixer, MlaConfig) and mixer.indexer is not None:
        specs.append(index_spec(mixer.indexer, layer))
    return specs


def _lightning_spec(mixer: LightningConfig, layer: int) -> LightningSpec:
    dim = mixer.head_dim
    return LightningSpec(layer=layer, num_heads=mixer.num_heads, key_dim=dim, value_dim=dim)


def _attention_spec(mixer: GqaConfig | MlaConfig, layer: int) -> AttentionSpec:
    if isinstance(mixer, MlaConfig):
        return AttentionSpec(
            layer=layer,
            num_kv_heads=1,
            key_dim=mixer.kv_rank + mixer.rope_dim,
            value_dim=mixer.kv_rank,
            latent=True,
            scale=mla_softmax_scale(mixer),
        )
    return AttentionSpec(
        layer=layer,
        num_kv_heads=mixer.num_kv_heads,
        key_dim=mixer.head_dim,
        value_dim=mixer.head_dim,
        scale=1 / math.sqrt(mixer.head_dim) if mixer.scale is None else mixer.scale,
        window=mixer.window,
    )


class SoftmaxAttention(nn.Module):
    """Grouped-query attention, with what families add: biases, norms, partial or no rope, a window, sinks."""

    def __init__(
        self,
        mixer: GqaConfig,
        *,
        layer: int,
        hidden_size: int,
        norm_eps: float,
        norm_shift: float = 0.0,
        ops: Ops,
    ) -> None:
        super().__init__()
        self.config, self.ops = mixer, ops
        self.norm_eps, self.norm_shift = norm_eps, norm_shift
        self.spec = _attention_spec(mixer, layer)
        query, kv = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
        self.q = Matrix(query, hidden_size)
        self.k = Matrix(kv, hidden_size)
        self.v = Matrix(kv, hidden_size)
        self.o = Matrix(hidden_size, query)
        self.qkv_bias: FusedVector | None = None
        if mixer.qkv_bias:
            self.q_bias, self.k_bias, self.v_bias = Vector(query), Vector(kv), Vector(kv)
            self.qkv_bias = FusedVector(self.q_bias, self.k_bias, self.v_bias)
        self.o_bias = Vector(hidden_size) if mixer.output_bias else None
        self.sinks = Vector(mixer.num_heads) if mixer.sinks else None
        self.q_norm: Vector | None = None
        self.k_norm: Vector | None = None
        if mixer.qk_norm is not None:
            per_head = mixer.qk_norm == "head"
            self.q_norm = Vector(mixer.head_dim if per_head else query)
            self.k_norm = Vector(mixer.head_dim if per_head else kv)

    def forward(
        self, x_TD: Tensor, angles: Angles | None, attend: Attend, residual_TD: Tensor | None
    ) -> Tensor:
        """residual + attention(x): [T, D]."""
        ops, heads, groups = self.ops, self.config.num_heads, self.config.num_kv_heads
        bias = self.qkv_bias.value() if self.qkv_bias else None
        weights = (self.q.weight(), self.k.weight(), self.v.weight())
        qkv = ops.linear(x_TD, weights, bias=bias).view(len(x_TD), heads + 2 * groups, -1)
        qk, v_TGH = qkv.split([heads + groups, groups], dim=1)
        q_TNH, k_TGH = self._placed(qk, angles)
        sinks_N = self.sinks.value if self.sinks else None
        out_TNH = attend(self.spec, q_TNH, k_TGH, v_TGH, sinks_N=sinks_N)
        o_bias = self.o_bias.value if self.o_bias else None
        return ops.linear(out_TNH.flatten(1), (self.o.weight(),), bias=o_bias, residual=residual_TD)

    def _placed(self, qk: Tensor, angles: Angles | None) -> tuple[Tensor, Tensor]:
        """Queries [T, N, H] and keys [T, G, H] with norms and positions, of both side by side."""
        sizes = [self.config.num_heads, self.config.num_kv_heads]
        if self.config.qk_norm is None and (angles is None or angles.queries_T2R is angles.keys_T2R):
            q_TNH, k_TGH = self._turned(qk, angles and angles.keys_T2R).split(sizes, dim=1)
            return q_TNH, k_TGH
        q_TNH, k_TGH = qk.split(sizes, dim=1)
        q_TNH, k_TGH = self._normed(q_TNH, self.q_norm), self._normed(k_TGH, self.k_norm)
        return (
            self._turned(q_TNH, angles and angles.queries_T2R),
            self._turned(k_TGH, angles and angles.keys_T2R),
        )

    def _normed(self, x_TNH: Tensor, norm: Vector | None) -> Tensor:
        if norm is None:
            return x_TNH
        if self.config.qk_norm == "head":
            return self.ops.rms_norm(x_TNH, norm.value, self.norm_eps, shift=self.norm_shift)
        flat = self.ops.rms_norm(x_TNH.flatten(1), norm.value, self.norm_eps, shift=self.norm_shift)
        return flat.view(x_TNH.shape)

    def _turned(self, x_TNH: Tensor, cos_sin_T2R: Tensor | None) -> Tensor:
        rope = self.config.rope
        if rope is None or cos_sin_T2R is None:
            return x_TNH
        return self.ops.rope(x_TNH, cos_sin_T2R, interleaved=rope.interleaved)


class LatentAttention(nn.Module):
    """Multi-head latent attention, absorbed: one key per token, the latent with its rotated part behind it.

    A head's query is carried into the latent space by `key_up` and the attended latent out of it by
    `value_up`, so keys and values of single heads never exist (DeepSeek-V2, arXiv 2405.04434, section 2.1).
    """

    def __init__(self, mixer: MlaConfig, *, layer: int, hidden_size: int, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = mixer, ops
        self.spec = _attention_spec(mixer, layer)
        heads, latent = mixer.num_heads, mixer.kv_rank
        width = heads * (mixer.nope_dim + mixer.rope_dim)
        if mixer.q_rank is None:
            self.q = Matrix(width, hidden_size)
        else:
            self.q_down = Matrix(mixer.q_rank, hidden_size)
            self.q_latent_norm = Vector(mixer.q_rank)
            self.q_up = Matrix(width, mixer.q_rank)
        self.kv_down = Matrix(latent + mixer.rope_dim, hidden_size)
        self.kv_latent_norm = Vector(latent)
        self.key_up = Matrix(latent, mixer.nope_dim, num_groups=heads)
        self.value_up = Matrix(mixer.value_dim, latent, num_groups=heads)
        self.o = Matrix(hidden_size, heads * mixer.value_dim)
        self.indexer: Indexer | None = None
        if mixer.indexer is not None and mixer.q_rank is not None:
            self.indexer = Indexer(
                mixer.indexer, layer=layer, hidden_size=hidden_size, q_rank=mixer.q_rank, ops=ops
            )

    def forward(self, x_TD: Tensor, angles: Angles, attend: Attend, residual_TD: Tensor | None) -> Tensor:
        """residual + attention(x): [T, D]."""
        ops, mixer, interleaved = self.ops, self.config, self.config.rope.interleaved
        q_TNH, latent_TL, rope_key_T1R, q_latent_TQ = self._project(x_TD)
        chosen_TK = None
        if self.indexer is not None and q_latent_TQ is not None:
            chosen_TK = self.indexer(x_TD, q_latent_TQ, angles.keys_T2R, attend)
        key_TL = ops.rms_norm(latent_TL, self.kv_latent_norm.value, _LATENT_EPS)
        key_T1R = ops.rope(rope_key_T1R, angles.keys_T2R, interleaved=interleaved)
        query_TNR = ops.rope(q_TNH[:, :, mixer.nope_dim :], angles.keys_T2R, interleaved=interleaved)
        query_TNL = ops.linear_grouped(q_TNH[:, :, : mixer.nope_dim], self.key_up.weights())
        query_TNH, key_T1H = ops.concat(query_TNL, query_TNR), ops.concat(key_TL[:, None], key_T1R)
        out_TNL = attend(self.spec, query_TNH, key_T1H, None, chosen_TK=chosen_TK)
        out_TNV = ops.linear_grouped(out_TNL, self.value_up.weights())
        return ops.linear(out_TNV.flatten(1), (self.o.weight(),), residual=residual_TD)

    def _project(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries [T, N, nope + rope], latents [T, L] and rope parts [T, 1, rope] of keys, query latents."""
        ops, mixer = self.ops, self.config
        first = self.q if mixer.q_rank is None else self.q_down
        fused = ops.linear(x_TD, (first.weight(), self.kv_down.weight()))
        start = first.shape[0]
        end = start + mixer.kv_rank
        q, q_latent_TQ = fused[:, :start], None
        if mixer.q_rank is not None:
            q_latent_TQ = ops.rms_norm(q, self.q_latent_norm.value, _LATENT_EPS)
            q = ops.linear(q_latent_TQ, (self.q_up.weight(),))
        return q.unflatten(1, (mixer.num_heads, -1)), fused[:, start:end], fused[:, None, end:], q_latent_TQ


class LightningAttention(nn.Module):
    """Linear attention with a decay: o(sigmoid(gate(x)) * norm(attention(silu(qkv(x))))).

    The rows of `qkv` are query, key and value of one head after another.
    """

    def __init__(self, mixer: LightningConfig, *, layer: int, hidden_size: int, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = mixer, ops
        self.spec = _lightning_spec(mixer, layer)
        width = mixer.num_heads * mixer.head_dim
        self.qkv = Matrix(3 * width, hidden_size)
        self.gate = Matrix(width, hidden_size)
        self.norm = Vector(width)
        self.o = Matrix(hidden_size, width)
        self._decays_N = torch.tensor(lightning_decays(mixer), dtype=torch.float32, device=ops.device)

    def forward(self, x_TD: Tensor, _angles: None, attend: Attend, residual_TD: Tensor | None) -> Tensor:
        """residual + attention(x): [T, D]."""
        ops, heads, dim = self.ops, self.config.num_heads, self.config.head_dim
        qkv = ops.silu(ops.linear(x_TD, (self.qkv.weight(),))).view(len(x_TD), heads, 3 * dim)
        q_TNH, k_TNH, v_TNH = qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :]
        out_TNH = attend.lightning(self.spec, q_TNH, k_TNH, v_TNH, self._decays_N)
        normed = ops.rms_norm(out_TNH.flatten(1), self.norm.value, _LIGHTNING_EPS)
        gated = ops.glu(ops.concat(ops.linear(x_TD, (self.gate.weight(),)), normed), SIGMOID)
        return ops.linear(gated, (self.o.weight(),), residual=residual_TD)
