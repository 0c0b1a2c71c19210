"""GLM-4 0414, dense: norms before and after every part, half of a head rotated, gate and up in one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin, Plain, RowPart

MODEL_TYPES = ("glm4",)
GGUF_ARCHITECTURES = ("glm4",)

_HF, _GGUF = "model.layers.{layer}", "blk.{layer}"


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    heads = hf.gqa_from_hf(fields, head_dim=128, share=0.5, interleaved=True)
    mixer = replace(heads, qkv_bias=fields.flag("attention_bias", True))
    mlp = DenseConfig(width=fields.integer("intermediate_size"))
    layer = LayerConfig(mixer=mixer, mlp=mlp, post_norms=True)
    layers = (layer,) * fields.integer("num_hidden_layers")
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.common_to_hf(config, architecture="Glm4ForCausalLM", model_type="glm4"),
        # transformers would put in its own, which need not be in the vocabulary.
        "pad_token_id": None,
        **hf.gqa_to_hf(config.layers),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. `post_attention_layernorm` comes before the feed-forward."""
    return {
        **hf.COMMON_NAMES,
        **hf.ATTENTION_NAMES,
        "layers.{layer}.mixer_post_norm": Plain(f"{_HF}.post_self_attn_layernorm.weight"),
        "layers.{layer}.mlp_post_norm": Plain(f"{_HF}.post_mlp_layernorm.weight"),
        "layers.{layer}.mlp.gate": RowPart(f"{_HF}.mlp.gate_up_proj.weight", 0),
        "layers.{layer}.mlp.up": RowPart(f"{_HF}.mlp.gate_up_proj.weight", 1),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields = file.fields
    mlp = DenseConfig(width=fields.integer("feed_forward_length"))
    layer = LayerConfig(mixer=gguf.gqa_from_gguf(file, interleaved=True), mlp=mlp, post_norms=True)
    layers = (layer,) * fields.integer("block_count")
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "glm4", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return {
        **gguf.COMMON_NAMES,
        **gguf.ATTENTION_NAMES,
        "layers.{layer}.mixer_post_norm": Plain(f"{_GGUF}.post_attention_norm.weight"),
        "layers.{layer}.mlp_post_norm": Plain(f"{_GGUF}.post_ffw_norm.weight"),
        "layers.{layer}.mlp.gate": RowPart(f"{_GGUF}.ffn_up.weight", 0),
        "layers.{layer}.mlp.up": RowPart(f"{_GGUF}.ffn_up.weight", 1),
    }
