"""What a model costs before it is loaded: parameters, cache, bytes and FLOPs, counted from its config."""

from __future__ import annotations

from collections.abc import Callable

from mohist.model.config import (
    DecoderConfig,
    DenseConfig,
    GqaConfig,
    IndexerConfig,
    LayerConfig,
    LightningConfig,
    MlaConfig,
    MoeConfig,
)

__all__ = [
    "active_parameters",
    "cache_values_per_token",
    "flops_per_token",
    "mtp_parameters",
    "parameters",
    "state_values",
    "weight_bytes",
]

_BITS = {"f32": 32.0, "bf16": 16.0, "q8_0": 8.5, "q4_1": 5.0, "q4_0": 4.5}
"""Bits a weight, scales included."""


def parameters(config: DecoderConfig) -> int:
    """Numbers in the model without its MTP modules."""
    return _embeddings(config) + config.hidden_size + sum(_layer(config, x, _mlp) for x in config.layers)


def active_parameters(config: DecoderConfig) -> int:
    """Numbers that one token meets: of the routed experts only the chosen, of everything else all."""
    return (
        _embeddings(config) + config.hidden_size + sum(_layer(config, x, _active_mlp) for x in config.layers)
    )


def mtp_parameters(config: DecoderConfig) -> int:
    """Numbers that the MTP modules add; they share the embedding and the head."""
    hidden = config.hidden_size
    return config.mtp_layers * (2 * hidden * hidden + 3 * hidden + _layer(config, config.layers[-1], _mlp))


def cache_values_per_token(config: DecoderConfig) -> int:
    """Numbers that the layers keep of every token, MTP modules left aside."""
    return sum(_cache(layer.mixer) for layer in config.layers)


def state_values(config: DecoderConfig) -> int:
    """Numbers of the states of linear attention, of which each cache block has a copy, whatever its size."""
    mixers = (layer.mixer for layer in config.layers)
    return sum(m.num_heads * m.head_dim**2 for m in mixers if isinstance(m, LightningConfig))


def weight_bytes(config: DecoderConfig, weight_format: str) -> int:
    """Bytes of the weights in f32, bf16, q8_0, q4_1 or q4_0, MTP modules left aside."""
    return round(parameters(config) * _BITS[weight_format] / 8)


def flops_per_token(config: DecoderConfig, context_tokens: int) -> int:
    """Floating-point operations of the forward pass of one token that attends to `context_tokens` tokens.

    A multiply-add counts 2. The embedding is a look-up and counts nothing.
    """
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    attention = sum(_attention_flops(layer.mixer, context_tokens) for layer in config.layers)
    return 2 * (active_parameters(config) - lookup) + attention


def _embeddings(config: DecoderConfig) -> int:
    return config.vocab_size * config.hidden_size * (1 if config.tie_embeddings else 2)


def _layer(
    config: DecoderConfig, layer: LayerConfig, mlp: Callable[[int, DenseConfig | MoeConfig], int]
) -> int:
    hidden = config.hidden_size
    norms = 4 if layer.post_norms else 2
    return norms * hidden + _mixer(hidden, layer.mixer) + mlp(hidden, layer.mlp)


def _mixer(hidden: int, mixer: GqaConfig | MlaConfig | LightningConfig) -> int:
    if isinstance(mixer, LightningConfig):
        width = mixer.num_heads * mixer.head_dim
        return 5 * hidden * width + width
    if isinstance(mixer, MlaConfig):
        width = mixer.num_heads * (mixer.nope_dim + mixer.rope_dim)
        rank = mixer.q_rank
        query = hidden * width if rank is None else hidden * rank + rank + rank * width
        latent = hidden * (mixer.kv_rank + mixer.rope_dim) + mixer.kv_rank
        unfold = mixer.kv_rank * mixer.num_heads * (mixer.nope_dim + mixer.value_dim)
        index = 0 if mixer.indexer is None else _indexer(hidden, rank or 0, mixer.indexer)
        return query + latent + unfold + mixer.num_heads * mixer.value_dim * hidden + index
    query, kv = mixer.num_heads * mixer.head_dim, mixer.num_kv_heads * mixer.head_dim
    biases = (query + 2 * kv) * mixer.qkv_bias + hidden * mixer.output_bias + mixer.num_heads * mixer.sinks
    norms = {None: 0, "head": 2 * mixer.head_dim, "projection": query + kv}[mixer.qk_norm]
    return hidden * (2 * query + 2 * kv) + biases + norms


def _indexer(hidden: int, q_rank: int, indexer: IndexerConfig) -> int:
    dim, heads = indexer.head_dim, indexer.num_heads
    return q_rank * heads * dim + hidden * (dim + heads) + 2 * dim


def _mlp(hidden: int, mlp: DenseConfig | MoeConfig) -> int:
    if isinstance(mlp, DenseConfig):
        return 3 * hidden * mlp.width + (2 * mlp.width + hidden) * mlp.bias
    return _active_mlp(hidden, mlp) + _expert(hidden, mlp) * (mlp.num_experts - mlp.top_k)


def _active_mlp(hidden: int, mlp: DenseConfig | MoeConfig) -> int:
    if isinstance(mlp, DenseConfig):
        return 3 * hidden * mlp.width + (2 * mlp.width + hidden) * mlp.bias
    router = mlp.num_experts * (hidden + mlp.selection_bias + mlp.biases)
    return router + _expert(hidden, mlp) * mlp.top_k + 3 * hidden * mlp.shared_width


def _expert(hidden: int, mlp: MoeConfig) -> int:
    return 3 * hidden * mlp.width + (2 * mlp.width + hidden) * mlp.biases


def _cache(mixer: GqaConfig | MlaConfig | LightningConfig) -> int:
    if isinstance(mixer, LightningConfig):
        return 0
    if isinstance(mixer, MlaConfig):
        return mixer.kv_rank + mixer.rope_dim + (mixer.indexer.head_dim if mixer.indexer else 0)
    return 2 * mixer.num_kv_heads * mixer.head_dim


def _attention_flops(mixer: GqaConfig | MlaConfig | LightningConfig, context_tokens: int) -> int:
    if isinstance(mixer, LightningConfig):
        return 5 * mixer.num_heads * mixer.head_dim**2
    if isinstance(mixer, MlaConfig):
        index, seen = 0, context_tokens
        if mixer.indexer is not None:
            index = 2 * mixer.indexer.num_heads * (mixer.indexer.head_dim + 1) * context_tokens
            seen = min(seen, mixer.indexer.top_k)
        return 2 * mixer.num_heads * (2 * mixer.kv_rank + mixer.rope_dim) * seen + index
    seen = context_tokens if mixer.window is None else min(context_tokens, mixer.window)
    return 4 * mixer.num_heads * mixer.head_dim * seen
