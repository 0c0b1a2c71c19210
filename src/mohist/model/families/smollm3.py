"""SmolLM3: a llama in which every fourth layer knows no positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.families import llama
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, heads_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("smollm3",)
GGUF_ARCHITECTURES = ("smollm3",)

_INTERVAL = 4
"""Layers from one without rope to the next, where no list says which; llama.cpp knows no other."""


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.skip("max_window_layers")
    num_layers, bias = fields.integer("num_hidden_layers"), fields.flag("attention_bias", False)
    interval = fields.integer("no_rope_layer_interval", _INTERVAL)
    turns = fields.sequence("no_rope_layers", [int((i + 1) % interval != 0) for i in range(num_layers)])
    if len(turns) < num_layers or not set(turns) <= {0, 1}:
        raise fields.error("no_rope_layers", f"{num_layers} of 1 (rope) or 0 (none)")
    heads = replace(hf.gqa_from_hf(fields, theta=2e6), qkv_bias=bias, output_bias=bias)
    windows = hf.windows_from_hf(fields, sliding=lambda layer: not turns[layer])
    if not fields.flag("use_sliding_window", False):
        windows = [None] * num_layers
    mlp = DenseConfig(width=fields.integer("intermediate_size"), bias=fields.flag("mlp_bias", False))
    layers = tuple(
        LayerConfig(mixer=replace(heads, rope=heads.rope if turned else None, window=window), mlp=mlp)
        for turned, window in zip(turns, windows, strict=False)
    )
    return DecoderConfig(layers=layers, **hf.common_from_hf(fields))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return {
        **hf.common_to_hf(config, architecture="SmolLM3ForCausalLM", model_type="smollm3"),
        # transformers would put in its own, which need not be in the vocabulary.
        "pad_token_id": None,
        **hf.gqa_to_hf(config.layers),
        **hf.windows_to_hf(config),
        "attention_bias": hf.shared(config.layers, "mixer", "qkv_bias"),
        "mlp_bias": hf.shared(config.layers, "mlp", "bias"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
        "no_rope_layers": [int(rope is not None) for rope in hf.each(config.layers, "mixer", "rope")],
        "use_sliding_window": any(hf.each(config.layers, "mixer", "window")),
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.hf_origins(config)


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields = file.fields
    heads, mlp = gguf.gqa_from_gguf(file), DenseConfig(width=fields.integer("feed_forward_length"))
    layers = tuple(
        LayerConfig(mixer=heads if (i + 1) % _INTERVAL else replace(heads, rope=None), mlp=mlp)
        for i in range(fields.integer("block_count"))
    )
    return DecoderConfig(layers=layers, **gguf.common_from_gguf(file))


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. llama.cpp knows which layers have no rope: every fourth."""
    mixers = [layer.mixer for layer in config.layers if isinstance(layer.mixer, GqaConfig)]
    if any((mixer.rope is None) != ((i + 1) % _INTERVAL == 0) for i, mixer in enumerate(mixers)):
        raise ModelError("no_rope_layers: llama.cpp leaves rope out of every fourth layer, and of no other")
    return "smollm3", {
        **common_to_gguf(config, mixers[0].rope),
        **heads_to_gguf(mixers[0]),
        "feed_forward_length": hf.shared(config.layers, "mlp", "width"),
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return llama.gguf_origins(config, file)
