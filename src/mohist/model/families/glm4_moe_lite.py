"""GLM-4.7-Flash: DeepSeek-V3's attention and experts with other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.model import gguf
from mohist.model.config import DecoderConfig, DenseConfig
from mohist.model.families import deepseek_v2, deepseek_v3
from mohist.model.fields import Fields
from mohist.model.origins import Origin

MODEL_TYPES = ("glm4_moe_lite",)
GGUF_ARCHITECTURES = ()


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    num_layers, kinds = fields.integer("num_hidden_layers"), fields.sequence("mlp_layer_types", None)
    num_dense = 1
    if kinds is not None:
        num_dense = kinds.count("dense")
        if kinds != ["dense"] * num_dense + ["sparse"] * (num_layers - num_dense):
            raise fields.error("mlp_layer_types", f"{num_layers} kinds, first 'dense', then 'sparse'")
    return deepseek_v3.decoder_from_hf(fields, num_dense=fields.integer("first_k_dense_replace", num_dense))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    written = deepseek_v3.decoder_to_hf(
        config, architecture="Glm4MoeLiteForCausalLM", model_type="glm4_moe_lite"
    )
    dense = [isinstance(layer.mlp, DenseConfig) for layer in config.layers]
    return written | {"mlp_layer_types": ["dense" if is_dense else "sparse" for is_dense in dense]}


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return deepseek_v3.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp has one architecture for it and DeepSeek-V3."""
    return deepseek_v2.config_from_gguf(file)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return deepseek_v2.config_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return deepseek_v2.gguf_origins(config, file)
