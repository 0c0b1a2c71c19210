"""DeepSeek's first mixture of experts (DeepSeekMoE, arXiv 2401.06066) and GigaChat-20B-A3B: grouped-query
attention, fine-grained experts by softmax beside shared ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, MoeConfig
from mohist.model.families import deepseek_v2
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, dense_then_sparse_to_gguf, heads_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("deepseek",)
GGUF_ARCHITECTURES = ("deepseek",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.expect("scoring_func", "softmax")
    # This code knows neither groups nor a scale, whatever later families do with these fields.
    for field in ("n_group", "topk_group", "routed_scaling_factor"):
        fields.expect(field, 1)
    moe = MoeConfig(
        **deepseek_v2.moe_from_hf(fields),
        scoring="softmax",
        selection_bias=False,
        renormalize=fields.flag("norm_topk_prob", False),
    )
    bias = fields.flag("attention_bias", False)
    layers = deepseek_v2.dense_then_sparse(
        replace(hf.gqa_from_hf(fields), qkv_bias=bias, output_bias=bias),
        DenseConfig(width=fields.integer("intermediate_size")),
        moe,
        num_layers=fields.integer("num_hidden_layers"),
        num_dense=fields.integer("first_k_dense_replace", 0),
    )
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`. transformers has no class for it; the models bring their code."""
    return {
        **hf.common_to_hf(config, architecture="DeepseekForCausalLM", model_type="deepseek"),
        **hf.gqa_to_hf(config.layers),
        **deepseek_v2.moe_to_hf(config),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "scoring_func": "softmax",
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES | hf.EXPERT_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp never divides the chosen scores by their sum here."""
    fields = file.fields
    for one in (
        "expert_weights_scale",
        "expert_gating_func",
        "expert_group_count",
        "expert_group_used_count",
    ):
        fields.expect(one, 1)
    width = fields.integer("expert_feed_forward_length")
    moe = MoeConfig(
        num_experts=fields.integer("expert_count"),
        top_k=fields.integer("expert_used_count"),
        width=width,
        shared_width=width * fields.integer("expert_shared_count", 0),
        scoring="softmax",
        selection_bias=False,
        renormalize=False,
    )
    layers = deepseek_v2.dense_then_sparse(
        gguf.gqa_from_gguf(file),
        DenseConfig(width=fields.integer("feed_forward_length")),
        moe,
        num_layers=fields.integer("block_count"),
        num_dense=fields.integer("leading_dense_block_count", 0),
    )
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    mixer, moe = hf.shared(config.layers, "mixer"), config.layers[-1].mlp
    assert isinstance(moe, MoeConfig)
    for field, value, needed in (
        ("norm_topk_prob", moe.renormalize, False),
        ("attention_bias", mixer.qkv_bias or mixer.output_bias, False),
        ("head_dim", mixer.head_dim, config.hidden_size // mixer.num_heads),
    ):
        if value != needed:
            raise ModelError(f"{field} = {value}: llama.cpp's deepseek architecture always has {needed}")
    keys = dense_then_sparse_to_gguf(config)
    del keys["expert_weights_norm"]  # never, here
    return "deepseek", {**common_to_gguf(config), **heads_to_gguf(mixer), **keys}


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. llama.cpp's converter interleaves the rope pairs."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | gguf.EXPERT_NAMES | gguf.interleaved_heads(config)
