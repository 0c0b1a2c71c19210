"""The one decoder: trains, scores, prefills and decodes. It knows neither masks nor caches nor its caller.

Shape suffixes: T packed rows, D hidden, V vocabulary, R rope pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mohist.kernels.ops import CacheSpec, Ops
from mohist.kernels.sampling import TokenScores
from mohist.model.angles import Angles, AngleTable
from mohist.model.attend import Attend
from mohist.model.config import (
    DecoderConfig,
    LayerConfig,
    LightningConfig,
    MlaConfig,
    MoeConfig,
    ResidualScales,
)
from mohist.model.feedforward import Glu, MixtureOfExperts
from mohist.model.mixers import LatentAttention, LightningAttention, SoftmaxAttention, cache_specs
from mohist.model.rope_config import RopeConfig
from mohist.model.tensors import Matrix, Vector
from mohist.types import SamplingParams

__all__ = ["Block", "Decoder", "MtpModule"]

_LOGITS = 1 << 26
"""Float32 numbers: 256 MB."""


class Decoder(nn.Module):
    """Tokens to hidden states to logits. Built empty; `load_decoder` or `init_decoder` fill it."""

    def __init__(self, config: DecoderConfig, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.recompute = False
        """Keep only what enters each block for the backward pass, and compute the rest again there."""
        ropes = dict.fromkeys(rope for layer in config.layers if (rope := layer.mixer.rope) is not None)
        self._angle_tables = {rope: AngleTable(rope, config.max_positions, ops) for rope in ropes}
        self.embed = Matrix(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer, i, ops) for i, layer in enumerate(config.layers))
        self.norm = Vector(config.hidden_size)
        self.head = None if config.tie_embeddings else Matrix(config.vocab_size, config.hidden_size)
        first = len(config.layers)
        self.mtp = nn.ModuleList(MtpModule(config, first + i, ops) for i in range(config.mtp_layers))

    @property
    def cache_specs(self) -> list[CacheSpec]:
        """What the layers tell `attend`, in order."""
        return [spec for i, layer in enumerate(self.config.layers) for spec in cache_specs(layer.mixer, i)]

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """Hidden states [T, D] after the last norm, for int32 tokens at int32 positions."""
        angles = self._angles(positions_T)
        x_TD = self._embed(tokens_T)
        for layer, config in zip(self.layers, self.config.layers, strict=True):
            x_TD = self._through(layer, x_TD, angles.get(config.mixer.rope), attend)
        return self.ops.rms_norm(x_TD, self.norm.value, self.config.norm_eps, shift=self.config.norm_shift)

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Logits [T, V] of the token after each row."""
        return self.ops.linear(hidden_TD, (self._head().weight(),))

    def logprobs(self, hidden_TD: Tensor, targets_T: Tensor, *, chunk: int | None = None) -> Tensor:
        """Log-probability [T] of int32 `targets_T` after each row; `chunk` as in `scores`."""
        return self.scores(hidden_TD, targets_T, chunk=chunk).logprobs_T

    def scores(
        self,
        hidden_TD: Tensor,
        targets_T: Tensor,
        params: SamplingParams | None = None,
        *,
        chunk: int | None = None,
    ) -> TokenScores:
        """Logprobs and entropies [T] under the distribution that `params` sample (see `Ops.logprobs`).

        At tokens that an engine sampled with `params` these are its `sampled_logprobs`. Gradients flow
        through the logprobs; entropies are only reported. Logits exist for `chunk` rows at a time, by default
        as many as take 256 MB.
        """
        chunk = chunk or max(1, _LOGITS // self.config.vocab_size)
        return self.ops.logprobs(hidden_TD, self._head().weight(), targets_T, params, chunk=chunk)

    def draft(
        self, hidden_TD: Tensor, next_tokens_T: Tensor, positions_T: Tensor, attend: Attend, *, depth: int = 0
    ) -> Tensor:
        """Hidden states [T, D] that predict one token further, by the MTP module at `depth`.

        `hidden_TD` is the output of `forward`, or of the module before; `next_tokens_T` the token that came
        after each row. The result goes into `logits` like any other.
        """
        embedding_TD = self._embed(next_tokens_T)
        angles = self._angles(positions_T).get(self.config.layers[-1].mixer.rope)
        return self.mtp[depth](hidden_TD, embedding_TD, angles, attend)

    def tensors(self) -> dict[str, Matrix | Vector]:
        """Every tensor by name, in order."""
        return {name: m for name, m in self.named_modules() if isinstance(m, Matrix | Vector)}

    def _through(self, layer: nn.Module, x_TD: Tensor, angles: Angles | None, attend: Attend) -> Tensor:
        inputs = (x_TD, angles, attend)
        if not (self.recompute and torch.is_grad_enabled()):
            return layer(*inputs)
        return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)

    def _embed(self, tokens_T: Tensor) -> Tensor:
        x_TD = self.ops.embed(self.embed.weight(), tokens_T)
        return x_TD if self.config.embed_scale == 1 else self.ops.scale(x_TD, self.config.embed_scale)

    def _head(self) -> Matrix:
        return self.embed if self.head is None else self.head

    def _angles(self, positions_T: Tensor) -> dict[RopeConfig | None, Angles]:
        return {rope: table.at(positions_T) for rope, table in self._angle_tables.items()}


class Block(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)).

    With `post_norms`, x + norm(mixer(norm(x))) and so on; with scaled residuals, see `ResidualScales`.
    """

    def __init__(self, config: DecoderConfig, layer: LayerConfig, index: int, ops: Ops) -> None:
        super().__init__()
        self.norm_eps, self.norm_shift, self.ops = config.norm_eps, config.norm_shift, ops
        self.residual = layer.residual
        hidden = config.hidden_size
        self.mixer_norm = Vector(hidden)
        self.mixer: LatentAttention | LightningAttention | SoftmaxAttention
        if isinstance(layer.mixer, MlaConfig):
            self.mixer = LatentAttention(layer.mixer, layer=index, hidden_size=hidden, ops=ops)
        elif isinstance(layer.mixer, LightningConfig):
            self.mixer = LightningAttention(layer.mixer, layer=index, hidden_size=hidden, ops=ops)
        else:
            norm = {"norm_eps": config.norm_eps, "norm_shift": config.norm_shift}
            self.mixer = SoftmaxAttention(layer.mixer, layer=index, hidden_size=hidden, ops=ops, **norm)
        self.mixer_post_norm = Vector(hidden) if layer.post_norms else None
        self.mlp_norm = Vector(hidden)
        self.mlp: MixtureOfExperts | Glu
        if isinstance(layer.mlp, MoeConfig):
            self.mlp = MixtureOfExperts(layer.mlp, hidden_size=hidden, ops=ops)
        else:
            self.mlp = Glu(layer.mlp, hidden_size=hidden, ops=ops)
        self.mlp_post_norm = Vector(hidden) if layer.post_norms else None

    def forward(self, x_TD: Tensor, angles: Angles | None, attend: Attend) -> Tensor:
        """The next layer's input, [T, D]."""
        if self.residual is not None:
            return self._scaled(self.residual, x_TD, angles, attend)
        normed_TD = self._norm(self.mixer_norm, x_TD)
        if self.mixer_post_norm is None:
            x_TD = self.mixer(normed_TD, angles, attend, x_TD)
        else:
            mixed_TD = self.mixer(normed_TD, angles, attend, None)
            x_TD = self._norm(self.mixer_post_norm, mixed_TD, x_TD)
        normed_TD = self._norm(self.mlp_norm, x_TD)
        if self.mlp_post_norm is None:
            return self.mlp(normed_TD, x_TD)
        return self._norm(self.mlp_post_norm, self.mlp(normed_TD, None), x_TD)

    def _scaled(self, scales: ResidualScales, x_TD: Tensor, angles: Angles | None, attend: Attend) -> Tensor:
        scale = self.ops.scale
        normed_TD = self._norm(self.mixer_norm, x_TD)
        mixed_TD = self.mixer(normed_TD, angles, attend, None)
        x_TD = scale(mixed_TD, scales.mixer_beta, residual=scale(normed_TD, scales.mixer_alpha))
        normed_TD = self._norm(self.mlp_norm, x_TD)
        added_TD = self.mlp(normed_TD, None)
        return scale(added_TD, scales.mlp_beta, residual=scale(normed_TD, scales.mlp_alpha))

    def _norm(self, norm: Vector, x_TD: Tensor, residual_TD: Tensor | None = None) -> Tensor:
        return self.ops.rms_norm(x_TD, norm.value, self.norm_eps, shift=self.norm_shift, residual=residual_TD)


class MtpModule(nn.Module):
    """Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, section 2.2), as released weights have it.

    The paper's equation 21 puts the hidden state before the embedding; the checkpoints' projection expects
    the embedding first.
    """

    def __init__(self, config: DecoderConfig, index: int, ops: Ops) -> None:
        super().__init__()
        self.norm_eps, self.ops = config.norm_eps, ops
        self.embed_norm = Vector(config.hidden_size)
        self.hidden_norm = Vector(config.hidden_size)
        self.project = Matrix(config.hidden_size, 2 * config.hidden_size)
        self.block = Block(config, config.layers[-1], index, ops)
        self.norm = Vector(config.hidden_size)

    def forward(
        self, hidden_TD: Tensor, embedding_TD: Tensor, angles: Angles | None, attend: Attend
    ) -> Tensor:
        """Hidden states [T, D] after the module's own norm."""
        ops, eps = self.ops, self.norm_eps
        embedding_TD = ops.rms_norm(embedding_TD, self.embed_norm.value, eps)
        both = ops.concat(embedding_TD, ops.rms_norm(hidden_TD, self.hidden_norm.value, eps))
        x_TD = self.block(ops.linear(both, (self.project.weight(),)), angles, attend)
        return ops.rms_norm(x_TD, self.norm.value, eps)
