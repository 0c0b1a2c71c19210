"""DeepSeek-V3 and R1: V2's attention; experts by sigmoid with a selection bias; a multi-token module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.model import gguf
from mohist.model.config import DecoderConfig, MoeConfig
from mohist.model.families import deepseek_v2
from mohist.model.fields import Fields
from mohist.model.origins import Origin, Plain

MODEL_TYPES = ("deepseek_v3",)
GGUF_ARCHITECTURES = ()


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.expect("scoring_func", "sigmoid")
    fields.expect("topk_method", "noaux_tc")
    fields.expect("head_dim", fields.integer("qk_rope_head_dim"))
    moe = MoeConfig(
        **deepseek_v2.moe_from_hf(fields),
        scoring="sigmoid",
        selection_bias=True,
        num_groups=fields.integer("n_group"),
        top_groups=fields.integer("topk_group"),
        group_score="top2",
        renormalize=fields.flag("norm_topk_prob"),
        scale=fields.number("routed_scaling_factor"),
    )
    return deepseek_v2.decoder_from_hf(
        fields,
        moe,
        interleaved=fields.flag("rope_interleave", True),
        mtp_layers=fields.integer("num_nextn_predict_layers", 0),
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    written = deepseek_v2.decoder_to_hf(
        config, architecture="DeepseekV3ForCausalLM", model_type="deepseek_v3"
    )
    return written | {
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "rope_interleave": config.rope.interleaved,
        "num_nextn_predict_layers": config.mtp_layers,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. An MTP module is stored as a layer after the last."""
    return {
        **deepseek_v2.hf_origins(config),
        "mtp.{layer}.embed_norm": Plain("model.layers.{layer}.enorm.weight"),
        "mtp.{layer}.hidden_norm": Plain("model.layers.{layer}.hnorm.weight"),
        "mtp.{layer}.project": Plain("model.layers.{layer}.eh_proj.weight"),
        "mtp.{layer}.norm": Plain("model.layers.{layer}.shared_head.norm.weight"),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return deepseek_v2.config_from_gguf(file)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. MTP modules are left out."""
    return deepseek_v2.config_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return deepseek_v2.gguf_origins(config, file)
