"""Seed-OSS: a llama with biases on queries, keys and values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig
from mohist.model.families import llama, qwen2
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin, Plain

MODEL_TYPES = ("seed_oss",)
GGUF_ARCHITECTURES = ("seed_oss",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("residual_dropout")
    mixer = replace(
        hf.gqa_from_hf(fields, head_dim=128),
        qkv_bias=fields.flag("attention_bias", True),
        output_bias=fields.flag("attention_out_bias", False),
    )
    mlp = DenseConfig(width=fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    layers = (LayerConfig(mixer=mixer, mlp=mlp),) * fields.integer("num_hidden_layers")
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.common_to_hf(config, architecture="SeedOssForCausalLM", model_type="seed_oss"),
        **hf.gqa_to_hf(config.layers),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "attention_out_bias": hf.shared(config.layers, "mixer", "output_bias"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
        "mlp_bias": hf.shared(config.layers, "mlp", "bias"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return qwen2.decoder_from_gguf(file, gguf.gqa_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. llama.cpp reads no other biases here."""
    biased = hf.shared(config.layers, "mixer", "output_bias"), hf.shared(config.layers, "mlp", "bias")
    if any(biased):
        raise ModelError(
            f"attention_out_bias, mlp_bias = {biased}: llama.cpp has neither in the seed_oss architecture"
        )
    return "seed_oss", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Its `post_attention_norm` comes before the feed-forward."""
    names = gguf.COMMON_NAMES | gguf.ATTENTION_NAMES
    return names | {"layers.{layer}.mlp_norm": Plain("blk.{layer}.post_attention_norm.weight")}
