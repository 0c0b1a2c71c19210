"""Qwen3 with routed experts: 30B-A3B, 235B-A22B, Coder. Softmax scores, no shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, LayerConfig, MoeConfig
from mohist.model.families import qwen3
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, experts_to_gguf, heads_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("qwen3_moe",)
GGUF_ARCHITECTURES = ("qwen3moe",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    # Every layer has experts in all releases; the window is never on.
    fields.expect("decoder_sparse_step", 1)
    fields.expect("mlp_only_layers", [])
    fields.expect("use_sliding_window", False)
    fields.skip(
        "intermediate_size", "max_window_layers", "output_router_logits", "router_aux_loss_coef",
        "sliding_window",
    )  # fmt: skip
    # transformers 5 writes `num_local_experts`.
    num_experts = fields.integer("num_experts", fields.integer("num_local_experts", None))
    if num_experts is None:
        raise fields.error("num_experts", "a whole number")
    moe = MoeConfig(
        num_experts=num_experts,
        top_k=fields.integer("num_experts_per_tok"),
        width=fields.integer("moe_intermediate_size"),
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=fields.flag("norm_topk_prob"),
    )
    layer = LayerConfig(mixer=qwen3.attention_from_hf(fields), mlp=moe)
    layers = (layer,) * fields.integer("num_hidden_layers")
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    moe = hf.shared(config.layers, "mlp")
    return {
        **hf.common_to_hf(config, architecture="Qwen3MoeForCausalLM", model_type="qwen3_moe"),
        **hf.gqa_to_hf(config.layers),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.width,
        "norm_topk_prob": moe.renormalize,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES | hf.EXPERT_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp always divides the chosen scores by their sum here."""
    fields = file.fields
    fields.skip("feed_forward_length")
    moe = MoeConfig(
        num_experts=fields.integer("expert_count"),
        top_k=fields.integer("expert_used_count"),
        width=fields.integer("expert_feed_forward_length"),
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=True,
    )
    layer = LayerConfig(mixer=replace(gguf.gqa_from_gguf(file), qk_norm="head"), mlp=moe)
    layers = (layer,) * fields.integer("block_count")
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    moe: MoeConfig = hf.shared(config.layers, "mlp")
    if not moe.renormalize:
        raise ModelError("norm_topk_prob = False: llama.cpp always divides by the sum in this architecture")
    experts = experts_to_gguf(moe)
    del experts["expert_gating_func"]  # the architecture has only one
    return "qwen3moe", {
        **common_to_gguf(config),
        **heads_to_gguf(hf.shared(config.layers, "mixer")),
        **experts,
        "feed_forward_length": moe.width,
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | gguf.EXPERT_NAMES
