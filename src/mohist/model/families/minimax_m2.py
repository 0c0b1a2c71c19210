"""MiniMax-M2: full attention, queries and keys normalised as whole rows, experts by sigmoid with a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, LayerConfig, MoeConfig
from mohist.model.families import deepseek_v2
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, experts_to_gguf, heads_to_gguf
from mohist.model.origins import Origin, Plain, Separate

MODEL_TYPES = ("minimax_m2",)
GGUF_ARCHITECTURES = ("minimax-m2",)

_MOE = "model.layers.{layer}.block_sparse_moe"


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`. Releases repeat in many fields what every M2 has."""
    num_layers = fields.integer("num_hidden_layers")
    fields.expect("attn_type_list", [1] * num_layers)
    fields.expect("qk_norm_type", "per_layer")
    fields.expect("scoring_func", "sigmoid")
    fields.expect("shared_intermediate_size", 0)
    fields.expect("use_qk_norm", True)
    fields.expect("use_routing_bias", True)
    for beta in ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta"):
        fields.expect(beta, 1.0)
    fields.skip(
        "mlp_intermediate_size", "mtp_transformer_layers", "num_mtp_modules", "output_router_logits",
        "router_aux_loss_coef", "router_jitter_noise", "shared_moe_mode", "use_mtp",
    )  # fmt: skip
    moe = MoeConfig(
        num_experts=fields.integer("num_local_experts"),
        top_k=fields.integer("num_experts_per_tok"),
        width=fields.integer("intermediate_size"),
        shared_width=0,
        scoring="sigmoid",
        selection_bias=True,
        renormalize=True,
    )
    head_dim, turned = fields.integer("head_dim", 128), fields.integer("rotary_dim", None)
    share = 1.0 if turned is None else turned / head_dim
    heads = hf.gqa_from_hf(fields, head_dim=head_dim, theta=5e6, share=share)
    layer = LayerConfig(mixer=replace(heads, qk_norm="projection"), mlp=moe)
    return DecoderConfig(layers=(layer,) * num_layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    moe, rope = hf.shared(config.layers, "mlp"), hf.shared(config.layers, "mixer", "rope")
    return {
        **hf.common_to_hf(config, architecture="MiniMaxM2ForCausalLM", model_type="minimax_m2"),
        **hf.gqa_to_hf(config.layers),
        "rotary_dim": rope.dim,
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "intermediate_size": moe.width,
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "use_qk_norm": True,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.COMMON_NAMES,
        **hf.ATTENTION_NAMES,
        "layers.{layer}.mlp.router": Plain(f"{_MOE}.gate.weight"),
        "layers.{layer}.mlp.router_bias": Plain(f"{_MOE}.e_score_correction_bias"),
        "layers.{layer}.mlp.experts.gate": Separate(f"{_MOE}.experts.{{expert}}.w1.weight"),
        "layers.{layer}.mlp.experts.up": Separate(f"{_MOE}.experts.{{expert}}.w3.weight"),
        "layers.{layer}.mlp.experts.down": Separate(f"{_MOE}.experts.{{expert}}.w2.weight"),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp always divides the chosen scores by their sum here."""
    fields = file.fields
    fields.skip("feed_forward_length")
    fields.expect("expert_gating_func", deepseek_v2.SIGMOID)
    moe = MoeConfig(
        num_experts=fields.integer("expert_count"),
        top_k=fields.integer("expert_used_count"),
        width=fields.integer("expert_feed_forward_length"),
        shared_width=0,
        scoring="sigmoid",
        selection_bias=True,
        renormalize=True,
    )
    layer = LayerConfig(mixer=replace(gguf.gqa_from_gguf(file), qk_norm="projection"), mlp=moe)
    layers = (layer,) * fields.integer("block_count")
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    moe: MoeConfig = hf.shared(config.layers, "mlp")
    return "minimax-m2", {
        **common_to_gguf(config),
        **heads_to_gguf(hf.shared(config.layers, "mixer")),
        **experts_to_gguf(moe),
        "feed_forward_length": moe.width,
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES | gguf.EXPERT_NAMES
