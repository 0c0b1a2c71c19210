"""What a run will need, before it starts: memory counted from the model's config, time from a measurement."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch

from mohist.cost import Prices
from mohist.kernels import load_ops
from mohist.kernels.weight import Weight
from mohist.model.config import DecoderConfig, GqaConfig, LayerConfig, LightningConfig, MoeConfig
from mohist.model.count import flops_per_token, mtp_parameters, parameters
from mohist.train.progress import TYPICAL_CONTEXT, duration

__all__ = ["Plan", "flops_per_second"]

_EFFICIENCY = 0.5
"""Part of the matrix products' speed that a training step reaches."""
_FULL_BYTES, _FROZEN_BYTES = 20, 8
"""A trained number: itself, packed, its gradient, AdamW's means. A frozen one under LoRA: packed twice."""

_LOGIT_ROWS = 1024
"""Rows whose logits exist at one time, and their gradients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A training run in numbers."""

    model: DecoderConfig
    num_samples: int
    steps: int
    num_tokens: int
    """Rows of all steps together."""
    max_tokens: int
    """Rows of a micro-batch."""
    recompute: bool
    is_lora: bool = False
    passes: float = 3.0
    """Forward passes that a row is worth: forward and backward are 3, with LoRA 2."""
    extra_bytes: int = 0
    """Beside what training itself needs: a cache of keys and values, further copies of weights."""
    prices: Prices

    @property
    def flops(self) -> int:
        """Of all steps; one more pass when activations are computed again."""
        return round(
            (self.passes + self.recompute) * self.num_tokens * flops_per_token(self.model, TYPICAL_CONTEXT)
        )

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients, optimiser, the activations of one micro-batch, and the logits of some rows."""
        numbers = parameters(self.model) + mtp_parameters(self.model)
        kept = [
            self.model.hidden_size if self.recompute else _activations(self.model, x)
            for x in self.model.layers
        ]
        activations = self.max_tokens * (sum(kept) + max(map(self._once, self.model.layers)))
        logits = 2 * min(self.max_tokens, _LOGIT_ROWS) * self.model.vocab_size
        weights = numbers * (_FROZEN_BYTES if self.is_lora else _FULL_BYTES)
        return weights + 4 * (activations + logits) + self.extra_bytes

    def text(self, speed: float) -> str:
        """For people; `speed` in floating-point operations a second."""
        seconds = self.flops / (speed * _EFFICIENCY)
        lines = [
            f"data      {self.num_samples:,} samples; {self.num_tokens:,} tokens in {self.steps:,} steps",
            f"memory    about {self.memory_bytes / 2**30:.2f} GiB",
            f"work      {self.flops / 1e12:,.3g} TFLOP",
            f"time      about {duration(seconds)}, at half of this machine's {speed / 1e9:.0f} GFLOP/s",
        ]
        if self.prices.machine_per_hour:
            money = seconds / 3600 * self.prices.machine_per_hour
            lines.append(f"cost      about {money:.3g} {self.prices.currency}")
        return "\n".join(lines)

    def _once(self, layer: LayerConfig) -> int:
        """What one layer needs while it is computed again."""
        return _activations(self.model, layer) if self.recompute else 0


def flops_per_second(threads: int | None) -> float:
    """Floating-point operations a second of a matrix product on this machine, measured now."""
    ops, size = load_ops(threads=threads), 1024
    weight = Weight.from_dense(torch.ones(size, size))
    x_TK = torch.ones(size, size)
    ops.linear(x_TK, (weight,))
    begin, count = perf_counter(), 0
    while perf_counter() - begin < 0.3:
        ops.linear(x_TK, (weight,))
        count += 1
    return 2 * size**3 * count / (perf_counter() - begin)


def _activations(config: DecoderConfig, layer: LayerConfig) -> int:
    """Numbers that a row keeps for the backward pass of a layer."""
    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, GqaConfig):
        heads, groups = mixer.num_heads, mixer.num_kv_heads
        attention = mixer.head_dim * (3 * heads + 4 * groups)
    elif isinstance(mixer, LightningConfig):
        attention = 12 * mixer.num_heads * mixer.head_dim
    else:
        latent = mixer.kv_rank + mixer.rope_dim
        attention = mixer.num_heads * (2 * latent + 2 * mixer.kv_rank + mixer.value_dim) + 3 * latent
    width = mlp.top_k * mlp.width + mlp.shared_width if isinstance(mlp, MoeConfig) else mlp.width
    return 4 * config.hidden_size + attention + 3 * width
