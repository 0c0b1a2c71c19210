"""Llama 2 and 3, SmolLM2, DeepSeek-Coder, and whatever else calls itself `llama`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin, Unpermuted

MODEL_TYPES = ("llama",)
GGUF_ARCHITECTURES = ("llama",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    common = hf.common_from_hf(fields)
    fields.expect("mlp_bias", False)
    fields.expect("rope_interleaved", False)
    fields.skip("is_llama_config")
    num_heads = fields.integer("num_attention_heads")
    bias = fields.flag("attention_bias", False)
    mixer = GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim", common["hidden_size"] // num_heads),
        qkv_bias=bias,
        output_bias=bias,
    )
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("intermediate_size")))
    rope = hf.rope_from_hf(fields, head_dim=mixer.head_dim, max_positions=common["max_positions"])
    return DecoderConfig(layers=(layer,) * fields.integer("num_hidden_layers"), rope=rope, **common)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    mixer = hf.shared(config.layers, "mixer")
    return {
        **hf.common_to_hf(config, architecture="LlamaForCausalLM", model_type="llama"),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_kv_heads,
        "head_dim": mixer.head_dim,
        "attention_bias": mixer.qkv_bias,
        "mlp_bias": False,
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    common, fields = gguf.common_from_gguf(file), file.fields
    num_heads = fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", common["hidden_size"] // num_heads)
    fields.expect("attention.value_length", head_dim)
    fields.expect("rope.dimension_count", head_dim)
    mixer = GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
    )
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("feed_forward_length")))
    rope = gguf.rope_from_gguf(file, head_dim=head_dim)
    return DecoderConfig(layers=(layer,) * fields.integer("block_count"), rope=rope, **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "llama", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. llama.cpp's converter interleaves the rope pairs of a llama."""
    mixer = hf.shared(config.layers, "mixer")
    heads = {"q": mixer.num_heads, "k": mixer.num_kv_heads}
    permuted: dict[str, Origin] = {}
    for name, num_heads in heads.items():
        for ours, theirs in ((name, "weight"), (f"{name}_bias", "bias")):
            stored = f"blk.{{layer}}.attn_{name}.{theirs}"
            permuted[f"layers.{{layer}}.mixer.{ours}"] = Unpermuted(stored, num_heads)
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | permuted
