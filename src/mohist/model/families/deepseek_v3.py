"""DeepSeek-V3, R1, Kimi K2 and GigaChat 3: V2's attention; experts by sigmoid with a selection bias; MTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, MoeConfig
from mohist.model.families import deepseek_v2
from mohist.model.fields import Fields
from mohist.model.origins import Origin

MODEL_TYPES = ("deepseek_v3", "kimi_k2")
"""Kimi K2's own code is DeepSeek-V3's under another name."""
GGUF_ARCHITECTURES = ()


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return decoder_from_hf(fields, num_dense=fields.integer("first_k_dense_replace", 0))


def decoder_from_hf(fields: Fields, *, num_dense: int) -> DecoderConfig:
    """The config of any model built like V3, whose first `num_dense` layers have no experts."""
    fields.expect("head_dim", fields.integer("qk_rope_head_dim"))
    return deepseek_v2.decoder_from_hf(
        fields,
        moe_from_hf(fields),
        interleaved=fields.flag("rope_interleave", True),
        num_dense=num_dense,
        mtp_layers=mtp_layers_from_hf(fields),
    )


def moe_from_hf(fields: Fields) -> MoeConfig:
    """V3's gate, which many later families have taken over."""
    fields.expect("scoring_func", "sigmoid")
    fields.expect("topk_method", "noaux_tc")
    return MoeConfig(
        **deepseek_v2.moe_from_hf(fields),
        scoring="sigmoid",
        selection_bias=True,
        num_groups=fields.integer("n_group"),
        top_groups=fields.integer("topk_group"),
        group_score="top2",
        renormalize=fields.flag("norm_topk_prob"),
        scale=fields.number("routed_scaling_factor"),
    )


def mtp_layers_from_hf(fields: Fields) -> int:
    """How many MTP modules follow the layers, in DeepSeek's and in transformers' spelling."""
    return fields.integer("num_nextn_predict_layers", fields.integer("num_mtp_layers", 0))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return decoder_to_hf(config, architecture="DeepseekV3ForCausalLM", model_type="deepseek_v3")


def decoder_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields of any model built like V3."""
    return {
        **deepseek_v2.decoder_to_hf(config, architecture=architecture, model_type=model_type),
        **moe_to_hf(config),
        "rope_interleave": hf.shared(config.layers, "mixer", "rope", "interleaved"),
        "num_nextn_predict_layers": config.mtp_layers,
    }


def moe_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The fields that `moe_from_hf` reads."""
    return {**deepseek_v2.moe_to_hf(config), "scoring_func": "sigmoid", "topk_method": "noaux_tc"}


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return {**deepseek_v2.hf_origins(config), **hf.MTP_NAMES}


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return deepseek_v2.config_from_gguf(file)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. MTP modules are left out."""
    return deepseek_v2.config_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return deepseek_v2.gguf_origins(config, file)
