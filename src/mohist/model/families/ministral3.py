"""Ministral 3: a Mistral whose queries grow with the logarithm of their position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig
from mohist.model.families import llama, mistral
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin
from mohist.model.rope_config import QueryGrowth

MODEL_TYPES = ("ministral3",)
GGUF_ARCHITECTURES = ("mistral3",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return mistral.decoder_from_hf(fields, head_dim=128, grows=True)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return mistral.decoder_to_hf(config, architecture="Ministral3ForCausalLM", model_type="ministral3")


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    common, fields, mixer = gguf.common_from_gguf(file), file.fields, gguf.gqa_from_gguf(file)
    beta = gguf.as_said(fields.number("attention.temperature_scale", 0.0))
    if beta:
        assert mixer.rope is not None
        period = fields.integer("rope.scaling.original_context_length", common["max_positions"])
        rope = replace(mixer.rope, query_growth=QueryGrowth(beta=beta, period=period))
        mixer = replace(mixer, rope=rope)
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("feed_forward_length")))
    return DecoderConfig(layers=(layer,) * fields.integer("block_count"), **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. Queries grow once in YaRN's original length."""
    keys = attention_to_gguf(config)
    growth = hf.shared(config.layers, "mixer", "rope").query_growth
    if growth is not None:
        keys["rope.scaling.original_context_length"] = growth.period
        keys["attention.temperature_scale"] = growth.beta
    return "mistral3", keys


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.gguf_origins(config, file)
