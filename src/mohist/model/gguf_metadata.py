"""Configs as the metadata of GGUF files: what `mohist.model.gguf` reads, written."""

from __future__ import annotations

from typing import Any

from mohist.errors import ModelError
from mohist.model import hf
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, MlaConfig, MoeConfig
from mohist.model.rope import inverse_frequencies
from mohist.model.rope_config import LinearScaling, Llama3Scaling, RopeConfig, TableScaling, YarnScaling

__all__ = [
    "attention_to_gguf",
    "common_to_gguf",
    "dense_then_sparse_to_gguf",
    "experts_to_gguf",
    "heads_to_gguf",
    "rope_divisors",
    "windows_to_gguf",
]


def common_to_gguf(config: DecoderConfig, rope: RopeConfig | None = None) -> dict[str, Any]:
    """The keys that all architectures have, without the prefix; `rope` where layers differ in it."""
    rope = rope or hf.shared(config.layers, "mixer", "rope")
    return {
        "block_count": len(config.layers),
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "vocab_size": config.vocab_size,
        **_rope_to_gguf(rope, latent=isinstance(config.layers[0].mixer, MlaConfig)),
    }


def attention_to_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys of a dense decoder whose layers are all alike, with plain attention.

    Raises ModelError, when they are not: llama.cpp's architectures of this kind cannot say so.
    """
    heads = heads_to_gguf(hf.shared(config.layers, "mixer"))
    return {
        **common_to_gguf(config),
        **heads,
        "feed_forward_length": hf.shared(config.layers, "mlp", "width"),
    }


def heads_to_gguf(mixer: GqaConfig) -> dict[str, Any]:
    """The keys of grouped-query attention. Raises ModelError, when it slides."""
    if mixer.window is not None:
        raise ModelError(
            f"window = {mixer.window}: llama.cpp has no sliding attention in the architectures that Mohist "
            "writes, so no GGUF file can hold this model"
        )
    return {
        "attention.head_count": mixer.num_heads,
        "attention.head_count_kv": mixer.num_kv_heads,
        "attention.key_length": mixer.head_dim,
        "attention.value_length": mixer.head_dim,
    }


def windows_to_gguf(config: DecoderConfig, *, interval: int) -> dict[str, Any]:
    """The keys that `windows_from_gguf` reads; the list only where it is not what the interval says."""
    windows = hf.each(config.layers, "mixer", "window")
    keys: dict[str, Any] = {
        # llama.cpp wants a number even where no layer slides.
        "attention.sliding_window": next((window for window in windows if window), config.max_positions)
    }
    sliding = [window is not None for window in windows]
    if sliding != [(i + 1) % interval != 0 for i in range(len(sliding))]:
        keys["attention.sliding_window_pattern"] = sliding
    return keys


def dense_then_sparse_to_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys of feed-forwards, the first of them dense, the others routed experts beside shared ones."""
    dense = [layer.mlp for layer in config.layers if isinstance(layer.mlp, DenseConfig)]
    moe: MoeConfig = hf.shared(config.layers[len(dense) :], "mlp")
    return {
        **experts_to_gguf(moe),
        "feed_forward_length": dense[0].width if dense else moe.width,
        "leading_dense_block_count": len(dense),
        "expert_shared_count": moe.shared_width // moe.width,
        "expert_weights_norm": moe.renormalize,
        "expert_weights_scale": float(moe.scale),
    }


def experts_to_gguf(moe: MoeConfig) -> dict[str, Any]:
    """The keys of routed experts; the numbers of the gates are llama.cpp's."""
    return {
        "expert_count": moe.num_experts,
        "expert_used_count": moe.top_k,
        "expert_feed_forward_length": moe.width,
        "expert_gating_func": 2 if moe.scoring == "sigmoid" else 1,
    }


def rope_divisors(rope: RopeConfig) -> tuple[float, ...] | None:
    """What each pair's frequency is divided by, where a tensor of its own says that (Llama 3)."""
    match rope.scaling:
        case TableScaling(divisors=divisors):
            return divisors
        case Llama3Scaling():
            plain = RopeConfig(dim=rope.dim, theta=rope.theta, interleaved=rope.interleaved)
            pairs = zip(inverse_frequencies(plain), inverse_frequencies(rope), strict=True)
            return tuple(before / after for before, after in pairs)
    return None


def _rope_to_gguf(rope: RopeConfig, *, latent: bool) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope.dimension_count": rope.dim, "rope.freq_base": float(rope.theta)}
    match rope.scaling:
        case LinearScaling(factor=factor):
            return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case YarnScaling() as scaling:
            return keys | _yarn_to_gguf(scaling, latent=latent)
    return keys


def _yarn_to_gguf(scaling: YarnScaling, *, latent: bool) -> dict[str, Any]:
    """See `rope_from_gguf`."""
    implied = scaling.mscale_all_dim and (scaling.mscale_all_dim if latent else 1.0)
    if scaling.attention_factor is not None or not scaling.truncate or scaling.mscale != implied:
        raise ModelError(
            f"YaRN with attention_factor, without truncation, or with mscale = {scaling.mscale} instead of "
            f"{implied}: GGUF has no key for it; keep this model in its Hugging Face folder"
        )
    keys: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling.factor),
        "rope.scaling.original_context_length": scaling.original_positions,
        "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
        "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
    }
    if scaling.mscale_all_dim:
        keys["rope.scaling.yarn_log_multiplier"] = (0.1 if latent else 1.0) * scaling.mscale_all_dim
    return keys
