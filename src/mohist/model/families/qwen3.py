"""Qwen3, dense: heads normalised before rope, a head width of its own, no biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, GqaConfig
from mohist.model.families import qwen2
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("qwen3",)
GGUF_ARCHITECTURES = ("qwen3",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return qwen2.decoder_from_hf(fields, attention_from_hf(fields))


def attention_from_hf(fields: Fields) -> GqaConfig:
    """The attention of every Qwen3."""
    bias = fields.flag("attention_bias", False)
    heads = hf.gqa_from_hf(fields, head_dim=128)
    return replace(heads, qkv_bias=bias, output_bias=bias, qk_norm="head")


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    written = qwen2.decoder_to_hf(config, architecture="Qwen3ForCausalLM", model_type="qwen3")
    return written | {"attention_bias": hf.shared(config.layers, "mixer", "qkv_bias")}


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return qwen2.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return qwen2.decoder_from_gguf(file, replace(gguf.gqa_from_gguf(file), qk_norm="head"))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "qwen3", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return qwen2.gguf_origins(config, file)
