"""Gemma 3, text: four norms a layer, stored less 1; GeGLU; sliding and global layers, each with a rope."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mohist.errors import ModelError
from mohist.kernels.activation import GELU_TANH
from mohist.model import gguf, hf, hf_rope
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, heads_to_gguf, windows_to_gguf
from mohist.model.origins import Origin, Plain, Shifted
from mohist.model.rope_config import RopeConfig

MODEL_TYPES = ("gemma3_text",)
GGUF_ARCHITECTURES = ("gemma3",)

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_PATTERN = 6
"""Every so manieth layer is global, where the config does not say."""
_LAYERS_27B = 62


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`. Soft-capped logits, as Gemma 2 has them, are not known here."""
    fields.expect("hidden_activation", "gelu_pytorch_tanh")
    fields.expect("use_bidirectional_attention", False)
    heads, local = _heads_from_hf(fields)
    interval = fields.integer("sliding_window_pattern", _PATTERN)
    fields.skip("_sliding_window_pattern")
    windows = hf.windows_from_hf(fields, sliding=lambda layer: bool((layer + 1) % interval))
    mlp = DenseConfig(width=fields.integer("intermediate_size"), activation=GELU_TANH)
    mixers = (heads if w is None else replace(heads, rope=local, window=w) for w in windows)
    layers = tuple(LayerConfig(mixer=mixer, mlp=mlp, post_norms=True) for mixer in mixers)
    scale = fields.number("embed_scale", _embed_scale(fields))
    common = hf.common_from_hf(fields) | {"tie_embeddings": fields.flag("tie_word_embeddings", True)}
    return DecoderConfig(layers=layers, norm_shift=1.0, embed_scale=scale, **common)


def _heads_from_hf(fields: Fields) -> tuple[GqaConfig, RopeConfig]:
    """Global layers' heads, and the rope of local ones: a section each, or (before) keys of their own."""
    bias = fields.flag("attention_bias", False)
    head_dim = fields.integer("head_dim", 256)
    shape = {"head_dim": head_dim, "max_positions": fields.integer("max_position_embeddings")}
    local = RopeConfig(dim=head_dim, theta=fields.number("rope_local_base_freq", _LOCAL_THETA))
    both = fields.section("rope_parameters")
    if both is None:
        rope = hf_rope.rope_from_hf(fields, theta=_GLOBAL_THETA, **shape)
    else:
        rope = hf_rope.rope_in_section(both.section("full_attention"), theta=_GLOBAL_THETA, **shape)
        local = hf_rope.rope_in_section(both.section("sliding_attention"), theta=local.theta, **shape)
        both.close()
    mixer = GqaConfig(
        num_heads=fields.integer("num_attention_heads"),
        num_kv_heads=fields.integer("num_key_value_heads"),
        head_dim=head_dim,
        rope=rope,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm="head",
        scale=1 / math.sqrt(fields.number("query_pre_attn_scalar", 256.0)),
    )
    return mixer, local


def _embed_scale(fields: Fields) -> float:
    """sqrt(hidden size), rounded as the weights are: transformers multiplies in their type."""
    dtype = fields.text("dtype", None) or fields.text("torch_dtype", "bfloat16")
    if dtype not in _DTYPES:
        raise fields.error("dtype", " or ".join(map(repr, _DTYPES)))
    return _rounded_root(fields.integer("hidden_size"), _DTYPES[dtype])


def _rounded_root(number: int, dtype: torch.dtype) -> float:
    return float(torch.tensor(math.sqrt(number), dtype=dtype))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`. `embed_scale` is ours: training may change the weights' type."""
    mixers, (whole, local) = hf.each(config.layers, "mixer"), _ropes(config)
    written = hf.common_to_hf(config, architecture="Gemma3ForCausalLM", model_type="gemma3_text")
    del written["hidden_act"]
    return {
        **written,
        **hf.windows_to_hf(config),
        "num_attention_heads": mixers[0].num_heads,
        "num_key_value_heads": mixers[0].num_kv_heads,
        "head_dim": mixers[0].head_dim,
        "attention_bias": mixers[0].qkv_bias,
        "query_pre_attn_scalar": round(mixers[0].scale ** -2),
        "hidden_activation": "gelu_pytorch_tanh",
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
        "rope_parameters": {
            "full_attention": hf_rope.rope_section(whole),
            "sliding_attention": hf_rope.rope_section(local),
        },
        "embed_scale": config.embed_scale,
    }


def _ropes(config: DecoderConfig) -> tuple[RopeConfig, RopeConfig]:
    """Of global and of local layers, also where there are none of these."""
    mixers = hf.each(config.layers, "mixer")
    ropes = {mixer.window is not None: mixer.rope for mixer in mixers}
    whole = ropes.get(False) or RopeConfig(dim=mixers[0].head_dim, theta=_GLOBAL_THETA)
    return whole, ropes.get(True) or RopeConfig(dim=mixers[0].head_dim, theta=_LOCAL_THETA)


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. `post_attention_layernorm` is what it says here."""
    layer = "model.layers.{layer}"
    return {
        **hf.COMMON_NAMES,
        **hf.ATTENTION_NAMES,
        "layers.{layer}.mixer_post_norm": Plain(f"{layer}.post_attention_layernorm.weight"),
        "layers.{layer}.mlp_norm": Plain(f"{layer}.pre_feedforward_layernorm.weight"),
        "layers.{layer}.mlp_post_norm": Plain(f"{layer}.post_feedforward_layernorm.weight"),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. `embedding_scale` is ours; without it, it is that of all releases."""
    fields = file.fields
    heads, num_layers = gguf.gqa_from_gguf(file), fields.integer("block_count")
    hidden_size = fields.integer("embedding_length")
    scalar = _query_scalar(num_layers, hidden_size, heads)
    heads = replace(heads, qk_norm="head", scale=1 / math.sqrt(scalar))
    theta = gguf.as_said(fields.number("rope.freq_base_swa", _LOCAL_THETA))
    local = RopeConfig(dim=heads.head_dim, theta=theta)
    mlp = DenseConfig(width=fields.integer("feed_forward_length"), activation=GELU_TANH)
    windows = gguf.windows_from_gguf(file, interval=_PATTERN)
    mixers = (heads if w is None else replace(heads, rope=local, window=w) for w in windows)
    layers = tuple(LayerConfig(mixer=mixer, mlp=mlp, post_norms=True) for mixer in mixers)
    scale = fields.number("embedding_scale", _rounded_root(hidden_size, torch.bfloat16))
    return DecoderConfig(layers=layers, norm_shift=1.0, embed_scale=scale, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. llama.cpp does not round the scale of embeddings."""
    mixer, (whole, local) = config.layers[0].mixer, _ropes(config)
    assert isinstance(mixer, GqaConfig)
    assert mixer.scale is not None
    scalar = _query_scalar(len(config.layers), config.hidden_size, mixer)
    for field, value, needed in (
        ("query_pre_attn_scalar", round(mixer.scale**-2), scalar),
        ("attention_bias", mixer.qkv_bias, False),
        ("rope_parameters.sliding_attention.rope_type scales", local.scaling is not None, False),
    ):
        if value != needed:
            raise ModelError(f"{field} = {value}: llama.cpp always has {needed} in this gemma3")
    return "gemma3", {
        **common_to_gguf(config, whole),
        **heads_to_gguf(replace(mixer, window=None)),
        **windows_to_gguf(config, interval=_PATTERN),
        "rope.freq_base_swa": float(local.theta),
        "feed_forward_length": hf.shared(config.layers, "mlp", "width"),
        "embedding_scale": config.embed_scale,
    }


def _query_scalar(num_layers: int, hidden_size: int, heads: GqaConfig) -> int:
    """`query_pre_attn_scalar`, which files do not have; 27B, known by its layers, has one of its own."""
    return hidden_size // heads.num_heads if num_layers == _LAYERS_27B else heads.head_dim


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Norms are stored as they multiply."""
    layer = "blk.{layer}"
    norms = {
        "norm": "output_norm",
        "layers.{layer}.mixer_norm": f"{layer}.attn_norm",
        "layers.{layer}.mixer.q_norm": f"{layer}.attn_q_norm",
        "layers.{layer}.mixer.k_norm": f"{layer}.attn_k_norm",
        "layers.{layer}.mixer_post_norm": f"{layer}.post_attention_norm",
        "layers.{layer}.mlp_norm": f"{layer}.ffn_norm",
        "layers.{layer}.mlp_post_norm": f"{layer}.post_ffw_norm",
    }
    shifted = {ours: Shifted(f"{stored}.weight", config.norm_shift) for ours, stored in norms.items()}
    return {**gguf.COMMON_NAMES, **gguf.ATTENTION_NAMES, **shifted}
