"""gpt-oss: attention sinks, every second layer sliding; biases everywhere; experts with a clamped SwiGLU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.kernels.activation import Activation
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, LayerConfig, MoeConfig
from mohist.model.fields import Fields
from mohist.model.origins import Alternate, Origin, Plain, Transposed

MODEL_TYPES = ("gpt_oss",)
GGUF_ARCHITECTURES = ()


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("initial_context_length", "output_router_logits", "router_aux_loss_coef")
    bias = fields.flag("attention_bias", True)
    mixer = replace(hf.gqa_from_hf(fields), qkv_bias=bias, output_bias=bias, sinks=True)
    windows = hf.windows_from_hf(fields, sliding=lambda layer: layer % 2 == 0)
    layers = tuple(
        LayerConfig(mixer=replace(mixer, window=window), mlp=_experts(fields)) for window in windows
    )
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def _experts(fields: Fields) -> MoeConfig:
    """Softmax over the logits of the chosen is softmax over all, divided by the sum of the chosen."""
    top_k = fields.integer("num_experts_per_tok")
    fields.expect("experts_per_token", top_k)
    return MoeConfig(
        num_experts=fields.integer("num_local_experts"),
        top_k=top_k,
        width=fields.integer("intermediate_size"),
        shared_width=0,
        scoring="softmax",
        selection_bias=False,
        renormalize=True,
        biases=True,
        activation=Activation(
            kind="clamped_silu",
            steepness=fields.number("swiglu_alpha", 1.702),
            limit=fields.number("swiglu_limit", 7.0),
        ),
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
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)
