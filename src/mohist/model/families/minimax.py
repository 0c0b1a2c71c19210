"""MiniMax-Text-01 and M1: linear attention in most layers, residuals of the normed input, experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from mohist.model.origins import Origin, Plain, Separate

MODEL_TYPES = ("minimax",)
GGUF_ARCHITECTURES = ()

_LINEAR, _FULL = "linear_attention", "full_attention"
_FACTORS = {_LINEAR: "linear_attn", _FULL: "full_attn"}


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("block_size", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
    num_layers = fields.integer("num_hidden_layers")
    default = [_LINEAR if i % 2 else _FULL for i in range(num_layers)]
    types = fields.sequence("layer_types", default)
    if len(types) != num_layers or not set(types) <= {_LINEAR, _FULL}:
        raise fields.error("layer_types", f"{num_layers} of {_LINEAR!r} or {_FULL!r}")
    layers = _layers(fields, types)
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def _layers(fields: Fields, types: list[str]) -> tuple[LayerConfig, ...]:
    heads = hf.gqa_from_hf(fields, theta=1_000_000.0)
    moe = MoeConfig(
        num_experts=fields.integer("num_local_experts"),
        top_k=fields.integer("num_experts_per_tok"),
        width=fields.integer("intermediate_size"),
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=True,
    )
    mlp_scales = {f"mlp_{kind}": fields.number(f"mlp_{kind}_factor", 1.0) for kind in ("alpha", "beta")}
    scales = {
        name: ResidualScales(
            mixer_alpha=fields.number(f"{stored}_alpha_factor", 1.0),
            mixer_beta=fields.number(f"{stored}_beta_factor", 1.0),
            **mlp_scales,
        )
        for name, stored in _FACTORS.items()
    }
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
    """See `mohist.model.family.Family`."""
    moe = hf.shared(config.layers, "mlp")
    full = tuple(layer for layer in config.layers if isinstance(layer.mixer, GqaConfig))
    kinds = [_FULL if isinstance(layer.mixer, GqaConfig) else _LINEAR for layer in config.layers]
    factors: dict[str, float] = {}
    for layer, kind in zip(config.layers, kinds, strict=True):
        assert layer.residual is not None
        factors[f"{_FACTORS[kind]}_alpha_factor"] = layer.residual.mixer_alpha
        factors[f"{_FACTORS[kind]}_beta_factor"] = layer.residual.mixer_beta
        factors |= {"mlp_alpha_factor": layer.residual.mlp_alpha, "mlp_beta_factor": layer.residual.mlp_beta}
    return {
        **hf.common_to_hf(config, architecture="MiniMaxForCausalLM", model_type="minimax"),
        **hf.gqa_to_hf(full),
        **factors,
        "layer_types": kinds,
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "intermediate_size": moe.width,
    }


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
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)
