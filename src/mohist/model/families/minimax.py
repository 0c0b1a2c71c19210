"""MiniMax-Text-01 and M1: linear attention in most layers, residuals of the normed input, experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import (
    DecoderConfig,
    GqaConfig,
    LayerConfig,
    LightningConfig,
    MoeConfig,
    ResidualScales,
)
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, heads_to_gguf
from mohist.model.origins import Origin, Plain, Separate

MODEL_TYPES = ("minimax", "minimax_m1", "minimax_text_01")
"""The second and third are of the published files, whose fields have other names than transformers'."""
GGUF_ARCHITECTURES = ("minimax-01",)

_LINEAR, _FULL = "linear_attention", "full_attention"
_FACTORS = {_LINEAR: "linear_attn", _FULL: "full_attn"}
_INTERVAL = 8
"""Layers from one with softmax to the next, where a GGUF file does not say which have it."""


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("block_size", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    fields.skip("shared_moe_mode")
    fields.expect("shared_intermediate_size", 0)
    types = _types_from_hf(fields)
    head_dim = fields.integer(
        "head_dim", fields.integer("hidden_size") // fields.integer("num_attention_heads")
    )
    share = fields.integer("rotary_dim", head_dim) / head_dim
    heads = hf.gqa_from_hf(fields, theta=1_000_000.0, share=share)
    experts, width = fields.integer("num_local_experts"), fields.integer("intermediate_size")
    moe = _experts(num_experts=experts, top_k=fields.integer("num_experts_per_tok"), width=width)
    mlp = {f"mlp_{kind}": _factor(fields, "mlp", "mlp", kind) for kind in ("alpha", "beta")}
    scales = {
        kind: ResidualScales(
            mixer_alpha=_factor(fields, kind, stored, "alpha"),
            mixer_beta=_factor(fields, kind, stored, "beta"),
            **mlp,
        )
        for kind, stored in _FACTORS.items()
    }
    return DecoderConfig(layers=_layers(types, heads, moe, scales), **hf.common_from_hf(fields))


def _types_from_hf(fields: Fields) -> list[str]:
    """The kind of every layer, in transformers' spelling; that of the files has 0 and 1."""
    num_layers, published = fields.integer("num_hidden_layers"), fields.sequence("attn_type_list", None)
    if published is None:
        fields.expect("postnorm", True)
        types = fields.sequence("layer_types", [_LINEAR if i % 2 else _FULL for i in range(num_layers)])
        if len(types) != num_layers or not set(types) <= {_LINEAR, _FULL}:
            raise fields.error("layer_types", f"{num_layers} of {_LINEAR!r} or {_FULL!r}")
        return types
    if not fields.flag("postnorm", False):
        raise fields.error("postnorm", "True: the residual path takes the normed input")
    if len(published) != num_layers or not set(published) <= {0, 1}:
        raise fields.error("attn_type_list", f"{num_layers} of 0 (linear) or 1 (softmax)")
    return [_FULL if kind else _LINEAR for kind in published]


def _factor(fields: Fields, published: str, stored: str, kind: str) -> float:
    """A factor of the residual path, in the spelling of the files or in transformers'."""
    return fields.number(f"layernorm_{published}_{kind}", fields.number(f"{stored}_{kind}_factor", 1.0))


def _experts(*, num_experts: int, top_k: int, width: int) -> MoeConfig:
    return MoeConfig(
        num_experts=num_experts,
        top_k=top_k,
        width=width,
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=True,
    )


def _layers(
    types: list[str], heads: GqaConfig, moe: MoeConfig, scales: Mapping[str, ResidualScales]
) -> tuple[LayerConfig, ...]:
    return tuple(
        LayerConfig(
            mixer=heads if kind == _FULL else _lightning(heads, i, len(types)), mlp=moe, residual=scales[kind]
        )
        for i, kind in enumerate(types)
    )


def _lightning(heads: GqaConfig, layer: int, num_layers: int) -> LightningConfig:
    """The deeper a layer, the slower it forgets."""
    scale = 1 - layer / (num_layers - 1 + 1e-5) + 1e-5
    return LightningConfig(num_heads=heads.num_heads, head_dim=heads.head_dim, slope_scale=scale)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`. transformers' class turns whole heads: else, as M1 is published."""
    moe, kinds = hf.shared(config.layers, "mlp"), _kinds(config)
    full = tuple(layer for layer in config.layers if isinstance(layer.mixer, GqaConfig))
    heads = hf.gqa_to_hf(full)
    share = heads.pop("partial_rotary_factor", None)
    numbers = {
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "intermediate_size": moe.width,
    }
    if share is None:
        factors = {
            f"{_FACTORS.get(part, part)}_{kind}_factor": f for (part, kind), f in _scales(config).items()
        }
        common = hf.common_to_hf(config, architecture="MiniMaxForCausalLM", model_type="minimax")
        return {**common, **heads, **factors, **numbers, "layer_types": kinds}
    del heads["rope_parameters"]
    return {
        **hf.common_to_hf(config, architecture="MiniMaxM1ForCausalLM", model_type="minimax_m1"),
        **heads,
        **{f"layernorm_{part}_{kind}": factor for (part, kind), factor in _scales(config).items()},
        **numbers,
        "rotary_dim": int(heads["head_dim"] * share),
        "attn_type_list": [int(kind == _FULL) for kind in kinds],
        "postnorm": True,
    }


def _kinds(config: DecoderConfig) -> list[str]:
    return [_FULL if isinstance(layer.mixer, GqaConfig) else _LINEAR for layer in config.layers]


def _scales(config: DecoderConfig) -> dict[tuple[str, str], float]:
    """The factors of the residual path by part and kind; those of kinds of layers that there are."""
    scales: dict[tuple[str, str], float] = {}
    for layer, kind in zip(config.layers, _kinds(config), strict=True):
        residual = layer.residual
        assert residual is not None
        scales |= {(kind, "alpha"): residual.mixer_alpha, (kind, "beta"): residual.mixer_beta}
        scales |= {("mlp", "alpha"): residual.mlp_alpha, ("mlp", "beta"): residual.mlp_beta}
    return scales


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    attention, moe = "model.layers.{layer}.self_attn", "model.layers.{layer}.block_sparse_moe"
    linear: dict[str, Origin] = {
        f"layers.{i}.mixer.o": Plain(f"{attention}.out_proj.weight")
        for i, layer in enumerate(config.layers)
        if isinstance(layer.mixer, LightningConfig)
    }
    return {
        **hf.COMMON_NAMES,
        **hf.ATTENTION_NAMES,
        **linear,
        "layers.{layer}.mixer.qkv": Plain(f"{attention}.qkv_proj.weight"),
        "layers.{layer}.mixer.gate": Plain(f"{attention}.output_gate.weight"),
        "layers.{layer}.mixer.norm": Plain(f"{attention}.norm.weight"),
        "layers.{layer}.mlp.router": Plain(f"{moe}.gate.weight"),
        "layers.{layer}.mlp.experts.gate": Separate(f"{moe}.experts.{{expert}}.w1.weight"),
        "layers.{layer}.mlp.experts.up": Separate(f"{moe}.experts.{{expert}}.w3.weight"),
        "layers.{layer}.mlp.experts.down": Separate(f"{moe}.experts.{{expert}}.w2.weight"),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. All layers have one alpha, and betas of 1."""
    fields, num_layers = file.fields, file.fields.integer("block_count")
    fields.expect("expert_gating_func", 1)
    interval = fields.integer("full_attention_interval", _INTERVAL)
    recurrent = fields.sequence(
        "attention.recurrent_layers", [(i + 1) % interval != 0 for i in range(num_layers)]
    )
    if len(recurrent) != num_layers:
        raise fields.error("attention.recurrent_layers", f"{num_layers} of true or false")
    experts, width = fields.integer("expert_count"), fields.integer("feed_forward_length")
    fields.expect("expert_feed_forward_length", width)
    moe = _experts(num_experts=experts, top_k=fields.integer("expert_used_count"), width=width)
    alpha = gguf.as_said(fields.number("residual_scale"))
    scales = dict.fromkeys((_LINEAR, _FULL), ResidualScales(mixer_alpha=alpha, mlp_alpha=alpha))
    types = [_LINEAR if is_linear else _FULL for is_linear in recurrent]
    layers = _layers(types, gguf.gqa_from_gguf(file), moe, scales)
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    scales, kinds = _scales(config), _kinds(config)
    alphas = {value for (_, kind), value in scales.items() if kind == "alpha"}
    betas = {value for (_, kind), value in scales.items() if kind == "beta"}
    if len(alphas) > 1 or betas != {1.0}:
        raise ModelError(
            f"layernorm alphas = {sorted(alphas)}, betas = {sorted(betas)}: llama.cpp has one alpha for all, "
            "and betas of 1; keep this model in its Hugging Face folder"
        )
    mixer = next(layer.mixer for layer in config.layers if isinstance(layer.mixer, GqaConfig))
    moe: MoeConfig = hf.shared(config.layers, "mlp")
    keys = {
        **common_to_gguf(config, mixer.rope),
        **heads_to_gguf(mixer),
        "expert_count": moe.num_experts,
        "expert_used_count": moe.top_k,
        "feed_forward_length": moe.width,
        "residual_scale": alphas.pop(),
    }
    recurrent = [kind == _LINEAR for kind in kinds]
    if recurrent != [(i + 1) % _INTERVAL != 0 for i in range(len(kinds))]:
        keys["attention.recurrent_layers"] = recurrent
    return "minimax-01", keys


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return {
        **gguf.COMMON_NAMES,
        **gguf.ATTENTION_NAMES,
        **gguf.EXPERT_NAMES,
        "layers.{layer}.mixer.qkv": Plain("blk.{layer}.attn_qkv.weight"),
        "layers.{layer}.mixer.gate": Plain("blk.{layer}.attn_gate.weight"),
        "layers.{layer}.mixer.norm": Plain("blk.{layer}.attn_norm_2.weight"),
    }
