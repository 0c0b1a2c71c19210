"""Configs as the metadata of GGUF files: what `mohist.model.gguf` reads, written."""

from __future__ import annotations

from typing import Any

from mohist.errors import ModelError
from mohist.model import hf
from mohist.model.config import (
    DecoderConfig,
    LinearScaling,
    Llama3Scaling,
    RopeConfig,
    TableScaling,
    YarnScaling,
)
from mohist.model.rope import inverse_frequencies

__all__ = ["attention_to_gguf", "common_to_gguf", "rope_divisors"]


def common_to_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that all architectures have, without the architecture's prefix."""
    return {
        "block_count": len(config.layers),
        "context_length": config.max_positions,
        "embedding_length": config.hidden_size,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "vocab_size": config.vocab_size,
        **_rope_to_gguf(hf.shared(config.layers, "mixer", "rope")),
    }


def attention_to_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys of a dense decoder whose layers are all alike, with plain attention.

    Raises ModelError, when they are not: llama.cpp's architectures of this kind cannot say so.
    """
    mixer = hf.shared(config.layers, "mixer")
    if mixer.window is not None:
        raise ModelError(
            f"window = {mixer.window}: llama.cpp has no sliding attention in the architecture of the "
            f"{config.family} family, so no GGUF file can hold this model"
        )
    return {
        **common_to_gguf(config),
        "feed_forward_length": hf.shared(config.layers, "mlp", "width"),
        "attention.head_count": mixer.num_heads,
        "attention.head_count_kv": mixer.num_kv_heads,
        "attention.key_length": mixer.head_dim,
        "attention.value_length": mixer.head_dim,
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


def _rope_to_gguf(rope: RopeConfig) -> dict[str, Any]:
    keys: dict[str, Any] = {"rope.dimension_count": rope.dim, "rope.freq_base": float(rope.theta)}
    match rope.scaling:
        case LinearScaling(factor=factor):
            return keys | {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case YarnScaling() as scaling:
            return keys | _yarn_to_gguf(scaling)
    return keys


def _yarn_to_gguf(scaling: YarnScaling) -> dict[str, Any]:
    if (
        scaling.attention_factor is not None
        or not scaling.truncate
        or scaling.mscale != scaling.mscale_all_dim
    ):
        raise ModelError(
            "YaRN with attention_factor, without truncation, or with an mscale that is not mscale_all_dim: "
            "GGUF has no key for it; keep this model in its Hugging Face folder"
        )
    keys: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(scaling.factor),
        "rope.scaling.original_context_length": scaling.original_positions,
        "rope.scaling.yarn_beta_fast": float(scaling.beta_fast),
        "rope.scaling.yarn_beta_slow": float(scaling.beta_slow),
    }
    if scaling.mscale_all_dim:
        keys["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling.mscale_all_dim
    return keys
