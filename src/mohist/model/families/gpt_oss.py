"""gpt-oss: attention sinks, every second layer sliding; biases everywhere; experts with a clamped SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.kernels.activation import Activation
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, GqaConfig, LayerConfig, MoeConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, experts_to_gguf, heads_to_gguf, windows_to_gguf
from mohist.model.origins import Alternate, Origin, Plain, Transposed
from mohist.model.rope_config import YarnScaling

MODEL_TYPES = ("gpt_oss",)
GGUF_ARCHITECTURES = ("gpt-oss",)

_ACTIVATION = Activation(kind="clamped_silu", steepness=1.702, limit=7.0)
"""Of every release, and the only one that llama.cpp knows."""
_INTERVAL = 2
"""Layers from one that sees all to the next, where no list says which do."""


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("initial_context_length", "output_router_logits", "router_aux_loss_coef")
    bias = fields.flag("attention_bias", True)
    mixer = replace(hf.gqa_from_hf(fields), qkv_bias=bias, output_bias=bias, sinks=True)
    windows = hf.windows_from_hf(fields, sliding=lambda layer: (layer + 1) % _INTERVAL != 0)
    top_k = fields.integer("num_experts_per_tok")
    fields.expect("experts_per_token", top_k)
    activation = replace(
        _ACTIVATION,
        steepness=fields.number("swiglu_alpha", _ACTIVATION.steepness),
        limit=fields.number("swiglu_limit", _ACTIVATION.limit),
    )
    experts, width = fields.integer("num_local_experts"), fields.integer("intermediate_size")
    moe = _experts(num_experts=experts, top_k=top_k, width=width, activation=activation)
    layers = tuple(LayerConfig(mixer=replace(mixer, window=window), mlp=moe) for window in windows)
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def _experts(*, num_experts: int, top_k: int, width: int, activation: Activation = _ACTIVATION) -> MoeConfig:
    """Softmax over the logits of the chosen is softmax over all, divided by the sum of the chosen."""
    return MoeConfig(
        num_experts=num_experts,
        top_k=top_k,
        width=width,
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=True,
        biases=True,
        activation=activation,
    )


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    moe = hf.shared(config.layers, "mlp")
    return {
        **hf.common_to_hf(config, architecture="GptOssForCausalLM", model_type="gpt_oss"),
        **hf.gqa_to_hf(config.layers),
        **hf.windows_to_hf(config),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "num_local_experts": moe.num_experts,
        "num_experts_per_tok": moe.top_k,
        "intermediate_size": moe.width,
        "swiglu_alpha": moe.activation.steepness,
        "swiglu_limit": moe.activation.limit,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Gates and ups alternate; experts are stored transposed."""
    mlp = "model.layers.{layer}.mlp"
    return (
        hf.COMMON_NAMES
        | hf.ATTENTION_NAMES
        | {
            "layers.{layer}.mixer.sinks": Plain("model.layers.{layer}.self_attn.sinks"),
            "layers.{layer}.mlp.router": Plain(f"{mlp}.router.weight"),
            "layers.{layer}.mlp.logit_bias": Plain(f"{mlp}.router.bias"),
            "layers.{layer}.mlp.experts.gate": Alternate(f"{mlp}.experts.gate_up_proj", 0),
            "layers.{layer}.mlp.experts.up": Alternate(f"{mlp}.experts.gate_up_proj", 1),
            "layers.{layer}.mlp.experts.down": Transposed(f"{mlp}.experts.down_proj"),
            "layers.{layer}.mlp.experts.gate_bias": Alternate(f"{mlp}.experts.gate_up_proj_bias", 0),
            "layers.{layer}.mlp.experts.up_bias": Alternate(f"{mlp}.experts.gate_up_proj_bias", 1),
            "layers.{layer}.mlp.experts.down_bias": Plain(f"{mlp}.experts.down_proj_bias"),
        }
    )


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. The ramp of YaRN is never truncated, as in all releases."""
    fields, mixer = file.fields, replace(gguf.gqa_from_gguf(file), sinks=True)
    assert mixer.rope is not None
    if isinstance(mixer.rope.scaling, YarnScaling):
        scaling = replace(mixer.rope.scaling, truncate=False)
        mixer = replace(mixer, rope=replace(mixer.rope, scaling=scaling))
    width = fields.integer("expert_feed_forward_length")
    fields.expect("feed_forward_length", width)
    experts, top_k = fields.integer("expert_count"), fields.integer("expert_used_count")
    moe = _experts(num_experts=experts, top_k=top_k, width=width)
    windows = gguf.windows_from_gguf(file, interval=_INTERVAL)
    layers = tuple(LayerConfig(mixer=replace(mixer, window=window), mlp=moe) for window in windows)
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. llama.cpp truncates the ramp of YaRN, which no release does."""
    mixer, moe = config.layers[0].mixer, hf.shared(config.layers, "mlp")
    assert isinstance(mixer, GqaConfig)
    assert mixer.rope is not None
    rope, activation = mixer.rope, moe.activation
    is_yarn = isinstance(rope.scaling, YarnScaling)
    for field, value, needed in (
        ("swiglu_alpha", activation.steepness, _ACTIVATION.steepness),
        ("swiglu_limit", activation.limit, _ACTIVATION.limit),
        ("attention_bias", mixer.qkv_bias, True),
        ("tie_word_embeddings", config.tie_embeddings, False),
        ("truncate", is_yarn and rope.scaling.truncate, False),
    ):
        if value != needed:
            raise ModelError(f"{field} = {value}: a GGUF file of gpt-oss always has {needed}")
    if is_yarn:
        rope = replace(rope, scaling=replace(rope.scaling, truncate=True))
    experts = experts_to_gguf(moe)
    del experts["expert_gating_func"]  # the architecture has only one
    return "gpt-oss", {
        **common_to_gguf(config, rope),
        **heads_to_gguf(replace(mixer, window=None)),
        **windows_to_gguf(config, interval=_INTERVAL),
        **experts,
        "feed_forward_length": moe.width,
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Its `post_attention_norm` comes before the feed-forward."""
    layer = "blk.{layer}"
    return {
        **gguf.COMMON_NAMES,
        **gguf.ATTENTION_NAMES,
        **gguf.EXPERT_NAMES,
        "layers.{layer}.mlp_norm": Plain(f"{layer}.post_attention_norm.weight"),
        "layers.{layer}.mixer.sinks": Plain(f"{layer}.attn_sinks.weight"),
        "layers.{layer}.mlp.logit_bias": Plain(f"{layer}.ffn_gate_inp.bias"),
        "layers.{layer}.mlp.experts.gate_bias": Plain(f"{layer}.ffn_gate_exps.bias"),
        "layers.{layer}.mlp.experts.up_bias": Plain(f"{layer}.ffn_up_exps.bias"),
        "layers.{layer}.mlp.experts.down_bias": Plain(f"{layer}.ffn_down_exps.bias"),
    }
