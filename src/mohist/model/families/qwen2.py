"""Qwen2 and Qwen2.5: biases on queries, keys and values; some layers may slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("qwen2",)
GGUF_ARCHITECTURES = ("qwen2",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return decoder_from_hf(fields, replace(hf.gqa_from_hf(fields), qkv_bias=True))


def decoder_from_hf(fields: Fields, mixer: GqaConfig) -> DecoderConfig:
    """The rest of the config, the same for every dense Qwen: which layers slide, and what all have."""
    mlp = DenseConfig(width=fields.integer("intermediate_size"))
    first = fields.integer("max_window_layers", fields.integer("num_hidden_layers"))
    windows = hf.windows_from_hf(fields, sliding=lambda layer: layer >= first)
    if not fields.flag("use_sliding_window", False):
        windows = [None] * len(windows)
    layers = tuple(LayerConfig(mixer=replace(mixer, window=window), mlp=mlp) for window in windows)
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return decoder_to_hf(config, architecture="Qwen2ForCausalLM", model_type="qwen2")


def decoder_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields that every dense Qwen writes."""
    windows = hf.each(config.layers, "mixer", "window")
    return {
        **hf.common_to_hf(config, architecture=architecture, model_type=model_type),
        **hf.gqa_to_hf(config.layers),
        **hf.windows_to_hf(config),
        "use_sliding_window": any(windows),
        "max_window_layers": next((i for i, window in enumerate(windows) if window), len(windows)),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return decoder_from_gguf(file, gguf.gqa_from_gguf(file))


def decoder_from_gguf(file: gguf.GgufFile, mixer: GqaConfig) -> DecoderConfig:
    """The config of any dense Qwen; llama.cpp does not slide in these architectures."""
    common, fields = gguf.common_from_gguf(file), file.fields
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("feed_forward_length")))
    return DecoderConfig(layers=(layer,) * fields.integer("block_count"), **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "qwen2", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES
