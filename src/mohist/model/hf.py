"""What Hugging Face models of different families share: fields and names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from mohist.errors import ModelError
from mohist.model.config import DecoderConfig, GqaConfig
from mohist.model.fields import Fields
from mohist.model.hf_rope import rope_from_hf, rope_to_hf
from mohist.model.origins import Origin, Plain, Separate

__all__ = [
    "ATTENTION_NAMES",
    "COMMON_NAMES",
    "EXPERT_NAMES",
    "MTP_NAMES",
    "common_from_hf",
    "common_to_hf",
    "each",
    "gqa_from_hf",
    "gqa_to_hf",
    "shared",
    "windows_from_hf",
    "windows_to_hf",
]

COMMON_NAMES: dict[str, Origin] = {
    "embed": Plain("model.embed_tokens.weight"),
    "norm": Plain("model.norm.weight"),
    "head": Plain("lm_head.weight"),
    "layers.{layer}.mixer_norm": Plain("model.layers.{layer}.input_layernorm.weight"),
    "layers.{layer}.mlp_norm": Plain("model.layers.{layer}.post_attention_layernorm.weight"),
    "layers.{layer}.mlp.gate": Plain("model.layers.{layer}.mlp.gate_proj.weight"),
    "layers.{layer}.mlp.up": Plain("model.layers.{layer}.mlp.up_proj.weight"),
    "layers.{layer}.mlp.down": Plain("model.layers.{layer}.mlp.down_proj.weight"),
    "layers.{layer}.mlp.gate_bias": Plain("model.layers.{layer}.mlp.gate_proj.bias"),
    "layers.{layer}.mlp.up_bias": Plain("model.layers.{layer}.mlp.up_proj.bias"),
    "layers.{layer}.mlp.down_bias": Plain("model.layers.{layer}.mlp.down_proj.bias"),
}

ATTENTION_NAMES: dict[str, Origin] = {
    "layers.{layer}.mixer.q": Plain("model.layers.{layer}.self_attn.q_proj.weight"),
    "layers.{layer}.mixer.k": Plain("model.layers.{layer}.self_attn.k_proj.weight"),
    "layers.{layer}.mixer.v": Plain("model.layers.{layer}.self_attn.v_proj.weight"),
    "layers.{layer}.mixer.o": Plain("model.layers.{layer}.self_attn.o_proj.weight"),
    "layers.{layer}.mixer.q_bias": Plain("model.layers.{layer}.self_attn.q_proj.bias"),
    "layers.{layer}.mixer.k_bias": Plain("model.layers.{layer}.self_attn.k_proj.bias"),
    "layers.{layer}.mixer.v_bias": Plain("model.layers.{layer}.self_attn.v_proj.bias"),
    "layers.{layer}.mixer.o_bias": Plain("model.layers.{layer}.self_attn.o_proj.bias"),
    "layers.{layer}.mixer.q_norm": Plain("model.layers.{layer}.self_attn.q_norm.weight"),
    "layers.{layer}.mixer.k_norm": Plain("model.layers.{layer}.self_attn.k_norm.weight"),
}

EXPERT_NAMES: dict[str, Origin] = {
    "layers.{layer}.mlp.router": Plain("model.layers.{layer}.mlp.gate.weight"),
    "layers.{layer}.mlp.router_bias": Plain("model.layers.{layer}.mlp.gate.e_score_correction_bias"),
    "layers.{layer}.mlp.experts.gate": Separate("model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"),
    "layers.{layer}.mlp.experts.up": Separate("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"),
    "layers.{layer}.mlp.experts.down": Separate("model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"),
    "layers.{layer}.mlp.shared.gate": Plain("model.layers.{layer}.mlp.shared_experts.gate_proj.weight"),
    "layers.{layer}.mlp.shared.up": Plain("model.layers.{layer}.mlp.shared_experts.up_proj.weight"),
    "layers.{layer}.mlp.shared.down": Plain("model.layers.{layer}.mlp.shared_experts.down_proj.weight"),
}
"""Routed experts as DeepSeek and Qwen name them."""

MTP_NAMES: dict[str, Origin] = {
    "mtp.{layer}.embed_norm": Plain("model.layers.{layer}.enorm.weight"),
    "mtp.{layer}.hidden_norm": Plain("model.layers.{layer}.hnorm.weight"),
    "mtp.{layer}.project": Plain("model.layers.{layer}.eh_proj.weight"),
    "mtp.{layer}.norm": Plain("model.layers.{layer}.shared_head.norm.weight"),
}
"""An MTP module is stored as a layer after the last."""

_WITHOUT_EFFECT = (
    "architectures", "attention_dropout", "auto_map", "dtype", "id2label", "initializer_range",
    "label2id", "model_type", "pad_token_id", "pretraining_tp", "quantization_config", "return_dict",
    "tokenizer_class", "torch_dtype", "transformers.js_config", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_cache",
)  # fmt: skip
"""Notes of training and of other software; `quantization_config` is the business of the weights' reader."""


def common_from_hf(fields: Fields) -> dict[str, Any]:
    """The arguments of `DecoderConfig` that all families take from the same fields."""
    fields.skip(*_WITHOUT_EFFECT)
    fields.expect("hidden_act", "silu")
    bos_tokens = fields.tokens("bos_token_id")
    return {
        "family": fields.family,
        "vocab_size": fields.integer("vocab_size"),
        "hidden_size": fields.integer("hidden_size"),
        "norm_eps": fields.number("rms_norm_eps"),
        "tie_embeddings": fields.flag("tie_word_embeddings", False),
        "max_positions": fields.integer("max_position_embeddings"),
        "bos_token": bos_tokens[0] if bos_tokens else None,
        "eos_tokens": fields.tokens("eos_token_id"),
    }


def common_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields that all families write alike."""
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.layers),
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions,
        "bos_token_id": config.bos_token,
        "eos_token_id": config.eos_tokens[0]
        if len(config.eos_tokens) == 1
        else list(config.eos_tokens) or None,
    }


def gqa_from_hf(fields: Fields, *, head_dim: int | None = None, **rope: Any) -> GqaConfig:
    """Heads and rope of grouped-query attention, to which a family adds the rest.

    `head_dim` is used where the config has none, instead of hidden size / heads; `rope` is passed on to
    `hf_rope.rope_from_hf`.
    """
    num_heads = fields.integer("num_attention_heads")
    head_dim = fields.integer("head_dim", head_dim or fields.integer("hidden_size") // num_heads)
    max_positions = fields.integer("max_position_embeddings")
    return GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=head_dim,
        rope=rope_from_hf(fields, head_dim=head_dim, max_positions=max_positions, **rope),
    )


def gqa_to_hf(layers: tuple[Any, ...]) -> dict[str, Any]:
    """The fields that `gqa_from_hf` reads; layers may differ in having rope at all."""
    head_dim = shared(layers, "mixer", "head_dim")
    turning = tuple(layer for layer in layers if layer.mixer.rope is not None)
    return {
        "num_attention_heads": shared(layers, "mixer", "num_heads"),
        "num_key_value_heads": shared(layers, "mixer", "num_kv_heads"),
        "head_dim": head_dim,
        **rope_to_hf(shared(turning, "mixer", "rope"), head_dim=head_dim),
    }


def windows_from_hf(fields: Fields, *, sliding: Callable[[int], bool]) -> list[int | None]:
    """The window of every layer by `layer_types`; without those, `sliding` says which layers have one."""
    num_layers, window = fields.integer("num_hidden_layers"), fields.integer("sliding_window", None)
    default = ["sliding_attention" if sliding(layer) else "full_attention" for layer in range(num_layers)]
    types = fields.sequence("layer_types", default)
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise fields.error("layer_types", f"{num_layers} of 'full_attention' or 'sliding_attention'")
    return [window if kind == "sliding_attention" else None for kind in types]


def windows_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The fields that `windows_from_hf` reads."""
    windows = each(config.layers, "mixer", "window")
    return {
        # transformers wants a number even where no layer slides
        "sliding_window": next((window for window in windows if window is not None), config.max_positions),
        "layer_types": ["full_attention" if window is None else "sliding_attention" for window in windows],
    }


def each(layers: tuple[Any, ...], *path: str) -> list[Any]:
    """An attribute's value in every layer."""
    return [functools.reduce(getattr, path, layer) for layer in layers]


def shared(layers: tuple[Any, ...], *path: str) -> Any:
    """The one value that an attribute has in all layers; configs of Hugging Face write it once.

    Raises ModelError, when layers differ.
    """
    values = each(layers, *path)
    if any(value != values[0] for value in values):
        raise ModelError(f"layers differ in {'.'.join(path)}: {values}: the file's config has one for all")
    return values[0]
