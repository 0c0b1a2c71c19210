"""Mistral 7B and Small: a llama, in whose first release every layer slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig
from mohist.model.families import llama
from mohist.model.fields import Fields
from mohist.model.origins import Origin

MODEL_TYPES = ("mistral",)
GGUF_ARCHITECTURES = ()


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return decoder_from_hf(fields)


def decoder_from_hf(fields: Fields, **rope: Any) -> DecoderConfig:
    """The config of any dense Mistral; `rope` is passed on to `hf_rope.rope_from_hf`."""
    mixer = replace(hf.gqa_from_hf(fields, **rope), window=fields.integer("sliding_window", None))
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("intermediate_size")))
    layers = (layer,) * fields.integer("num_hidden_layers")
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return decoder_to_hf(config, architecture="MistralForCausalLM", model_type="mistral")


def decoder_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields that every dense Mistral writes."""
    return {
        **hf.common_to_hf(config, architecture=architecture, model_type=model_type),
        **hf.gqa_to_hf(config.layers),
        "sliding_window": hf.shared(config.layers, "mixer", "window"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp calls a Mistral a llama."""
    return llama.config_from_gguf(file)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return llama.config_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.gguf_origins(config, file)
