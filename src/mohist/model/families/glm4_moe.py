"""GLM-4.5, 4.6 and 4.7: grouped-query attention with half a head rotated, experts gated as in DeepSeek-V3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, MoeConfig
from mohist.model.families import deepseek_v2, deepseek_v3
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, dense_then_sparse_to_gguf, heads_to_gguf
from mohist.model.origins import Origin, Plain

MODEL_TYPES = ("glm4_moe",)
GGUF_ARCHITECTURES = ("glm4moe",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    layers = deepseek_v2.dense_then_sparse(
        replace(
            hf.gqa_from_hf(fields, share=0.5),
            qkv_bias=fields.flag("attention_bias", False),
            qk_norm="head" if fields.flag("use_qk_norm", False) else None,
        ),
        DenseConfig(width=fields.integer("intermediate_size")),
        deepseek_v3.moe_from_hf(fields),
        num_layers=fields.integer("num_hidden_layers"),
        num_dense=fields.integer("first_k_dense_replace", 1),
    )
    mtp_layers = deepseek_v3.mtp_layers_from_hf(fields)
    return DecoderConfig(layers=layers, mtp_layers=mtp_layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.common_to_hf(config, architecture="Glm4MoeForCausalLM", model_type="glm4_moe"),
        **hf.gqa_to_hf(config.layers),
        **deepseek_v3.moe_to_hf(config),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "use_qk_norm": hf.shared(config.layers, "mixer", "qk_norm") == "head",
        "num_nextn_predict_layers": config.mtp_layers,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES | hf.EXPERT_NAMES | hf.MTP_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. Blocks of MTP modules come last, and stay on disk."""
    fields = file.fields
    fields.expect("expert_gating_func", deepseek_v2.SIGMOID)
    for one in ("expert_group_count", "expert_group_used_count"):
        fields.expect(one, 1)
    width = fields.integer("expert_feed_forward_length")
    moe = MoeConfig(
        num_experts=fields.integer("expert_count"),
        top_k=fields.integer("expert_used_count"),
        width=width,
        shared_width=width * fields.integer("expert_shared_count", 0),
        scoring="sigmoid",
        selection_bias=True,
        group_score="top2",
        renormalize=fields.flag("expert_weights_norm", False),
        scale=gguf.as_said(fields.number("expert_weights_scale", 1.0)),
    )
    normed = "blk.0.attn_q_norm.weight" in file.tensors
    layers = deepseek_v2.dense_then_sparse(
        replace(gguf.gqa_from_gguf(file), qk_norm="head" if normed else None),
        DenseConfig(width=fields.integer("feed_forward_length")),
        moe,
        num_layers=fields.integer("block_count") - fields.integer("nextn_predict_layers", 0),
        num_dense=fields.integer("leading_dense_block_count", 0),
    )
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. MTP modules are left out."""
    return "glm4moe", {
        **common_to_gguf(config),
        **heads_to_gguf(hf.shared(config.layers, "mixer")),
        **dense_then_sparse_to_gguf(config),
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Its `post_attention_norm` comes before the feed-forward."""
    names = gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | gguf.EXPERT_NAMES
    return names | {"layers.{layer}.mlp_norm": Plain("blk.{layer}.post_attention_norm.weight")}
