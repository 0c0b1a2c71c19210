"""Llama 2 and 3, SmolLM2, DeepSeek-Coder, and whatever else calls itself `llama`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("llama",)
GGUF_ARCHITECTURES = ("llama",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    common = hf.common_from_hf(fields)
    fields.expect("rope_interleaved", False)
    fields.skip("is_llama_config")
    bias = fields.flag("attention_bias", False)
    mixer = replace(hf.gqa_from_hf(fields), qkv_bias=bias, output_bias=bias)
    mlp = DenseConfig(width=fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    layer = LayerConfig(mixer=mixer, mlp=mlp)
    return DecoderConfig(layers=(layer,) * fields.integer("num_hidden_layers"), **common)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.common_to_hf(config, architecture="LlamaForCausalLM", model_type="llama"),
        **hf.gqa_to_hf(config.layers),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "mlp_bias": hf.shared(config.layers, "mlp", "bias"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    common, fields = gguf.common_from_gguf(file), file.fields
    mixer = gguf.gqa_from_gguf(file)
    fields.expect("rope.dimension_count", mixer.head_dim)
    bias = "blk.0.ffn_gate.bias" in file.tensors
    mlp = DenseConfig(width=fields.integer("feed_forward_length"), bias=bias)
    layer = LayerConfig(mixer=mixer, mlp=mlp)
    return DecoderConfig(layers=(layer,) * fields.integer("block_count"), **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "llama", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | gguf.interleaved_heads(config)
