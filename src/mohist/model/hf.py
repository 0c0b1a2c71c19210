"""What Hugging Face models of different families share: fields, rope in its old and new spelling, names."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from mohist.errors import ModelError
from mohist.model.config import (
    DecoderConfig,
    GqaConfig,
    LinearScaling,
    Llama3Scaling,
    QueryGrowth,
    RopeConfig,
    TableScaling,
    YarnScaling,
)
from mohist.model.fields import Fields
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
    "rope_from_hf",
    "rope_in_section",
    "rope_section",
    "rope_to_hf",
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
    `rope_from_hf`.
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


def rope_from_hf(
    fields: Fields,
    *,
    head_dim: int,
    max_positions: int,
    interleaved: bool = False,
    theta: float = 10_000.0,
    share: float = 1.0,
    grows: bool = False,
) -> RopeConfig:
    """Rope from `rope_parameters` (transformers 5), or from `rope_theta` and `rope_scaling` (before).

    `theta` and `share` (of a head's entries that are rotated) are used where the config has none; `grows`
    says that the family reads Llama 4's scale of queries.
    """
    theta = fields.number("rope_theta", theta)
    share = fields.number("partial_rotary_factor", share)
    section, old = fields.section("rope_parameters"), fields.section("rope_scaling")
    return rope_in_section(
        section or old,
        head_dim=head_dim,
        max_positions=max_positions,
        interleaved=interleaved,
        theta=theta,
        share=share,
        grows=grows,
    )


def rope_in_section(
    section: Fields | None,
    *,
    head_dim: int,
    max_positions: int,
    interleaved: bool = False,
    theta: float,
    share: float = 1.0,
    grows: bool = False,
) -> RopeConfig:
    """Rope from an object of `rope_parameters`; None leaves all as it is given (see `rope_from_hf`)."""
    scaling, growth = None, None
    if section is not None:
        theta = section.number("rope_theta", theta)
        share = section.number("partial_rotary_factor", share)
        scaling = _scaling_from_hf(section, max_positions)
        if grows:
            growth = _growth_from_hf(section)
            section.skip("max_position_embeddings")
        section.close()
    return RopeConfig(
        dim=int(head_dim * share),
        theta=theta,
        interleaved=interleaved,
        scaling=scaling,
        query_growth=growth,
    )


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


def _scaling_from_hf(
    section: Fields, max_positions: int
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    kind = section.text("rope_type", None) or section.text("type", "default")
    section.skip("type")
    if kind == "default":
        return None
    factor = section.number("factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    original = section.integer("original_max_position_embeddings", max_positions)
    if kind == "llama3":
        return Llama3Scaling(
            factor=factor,
            low_frequency_factor=section.number("low_freq_factor"),
            high_frequency_factor=section.number("high_freq_factor"),
            original_positions=original,
        )
    if kind == "yarn":
        return YarnScaling(
            factor=factor,
            original_positions=original,
            beta_fast=section.number("beta_fast", 32.0),
            beta_slow=section.number("beta_slow", 1.0),
            truncate=section.flag("truncate", True),
            attention_factor=section.number("attention_factor", None),
            mscale=section.number("mscale", None),
            mscale_all_dim=section.number("mscale_all_dim", None),
        )
    raise section.error("rope_type", "'default', 'linear', 'llama3' or 'yarn'")


def _growth_from_hf(section: Fields) -> QueryGrowth | None:
    beta = section.number("llama_4_scaling_beta", None)
    if beta is None:
        return None
    return QueryGrowth(beta=beta, period=section.integer("original_max_position_embeddings"))


def rope_section(rope: RopeConfig) -> dict[str, Any]:
    """An object of `rope_parameters`, but for shares of a head and growth of queries."""
    return {"rope_type": "default", "rope_theta": rope.theta, **(_scaling_to_hf(rope) or {})}


def rope_to_hf(rope: RopeConfig, *, head_dim: int) -> dict[str, Any]:
    """Rope in both spellings: transformers before version 5 reads only the old one."""
    scaling, growth = _scaling_to_hf(rope), rope.query_growth
    share = {} if rope.dim == head_dim else {"partial_rotary_factor": rope.dim / head_dim}
    if growth is not None:
        grown = {"llama_4_scaling_beta": growth.beta, "original_max_position_embeddings": growth.period}
        scaling = (scaling or {"rope_type": "default"}) | grown
    new = {"rope_type": "default", "rope_theta": rope.theta, **share, **(scaling or {})}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": new, **share}


def _scaling_to_hf(rope: RopeConfig) -> dict[str, Any] | None:
    match rope.scaling:
        case None:
            return None
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
        case YarnScaling() as scaling:
            values: Mapping[str, Any] = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_positions,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": None if scaling.truncate else False,
                "attention_factor": scaling.attention_factor,
                "mscale": scaling.mscale,
                "mscale_all_dim": scaling.mscale_all_dim,
            }
            return {key: value for key, value in values.items() if value is not None}
        case TableScaling():
            raise ModelError(
                "rope scaling = a table of divisors, as read from a GGUF file: Hugging Face's config has no "
                "field for it; save a model that was loaded from a Hugging Face folder"
            )
