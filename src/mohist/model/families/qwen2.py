"""Qwen2 and Qwen2.5: biases on queries, keys and values; some layers may slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import attention_to_gguf
from mohist.model.origins import Origin

MODEL_TYPES = ("qwen2",)
GGUF_ARCHITECTURES = ("qwen2",)


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    num_heads = fields.integer("num_attention_heads")
    mixer = GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("num_key_value_heads", num_heads),
        head_dim=fields.integer("head_dim", fields.integer("hidden_size") // num_heads),
        qkv_bias=True,
    )
    return decoder_from_hf(fields, mixer)


def decoder_from_hf(fields: Fields, mixer: GqaConfig) -> DecoderConfig:
    """The rest of the config, the same for every Qwen: which layers slide, and what all families have."""
    common = hf.common_from_hf(fields)
    num_layers = fields.integer("num_hidden_layers")
    mlp = DenseConfig(width=fields.integer("intermediate_size"))
    windows = _windows(fields, num_layers)
    layers = tuple(LayerConfig(mixer=replace(mixer, window=window), mlp=mlp) for window in windows)
    rope = hf.rope_from_hf(fields, head_dim=mixer.head_dim, max_positions=common["max_positions"])
    return DecoderConfig(layers=layers, rope=rope, **common)


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    return decoder_to_hf(config, architecture="Qwen2ForCausalLM", model_type="qwen2")


def decoder_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields that every Qwen writes."""
    windows = hf.each(config.layers, "mixer", "window")
    sliding = [window for window in windows if window is not None]
    return {
        **hf.common_to_hf(config, architecture=architecture, model_type=model_type),
        "num_attention_heads": hf.shared(config.layers, "mixer", "num_heads"),
        "num_key_value_heads": hf.shared(config.layers, "mixer", "num_kv_heads"),
        "head_dim": hf.shared(config.layers, "mixer", "head_dim"),
        "intermediate_size": hf.shared(config.layers, "mlp", "width"),
        "use_sliding_window": bool(sliding),
        "sliding_window": sliding[0] if sliding else None,
        "max_window_layers": next((i for i, w in enumerate(windows) if w is not None), len(windows)),
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in windows],
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return hf.COMMON_NAMES | hf.ATTENTION_NAMES


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    return decoder_from_gguf(file, qkv_bias=True)


def decoder_from_gguf(file: gguf.GgufFile, *, qkv_bias: bool = False, qk_norm: bool = False) -> DecoderConfig:
    """The config of any Qwen; llama.cpp does not slide in this architecture."""
    common, fields = gguf.common_from_gguf(file), file.fields
    num_heads = fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", common["hidden_size"] // num_heads)
    fields.expect("attention.value_length", head_dim)
    mixer = GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        qkv_bias=qkv_bias,
        qk_norm=qk_norm,
    )
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=fields.integer("feed_forward_length")))
    rope = gguf.rope_from_gguf(file, head_dim=head_dim)
    return DecoderConfig(layers=(layer,) * fields.integer("block_count"), rope=rope, **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`."""
    return "qwen2", attention_to_gguf(config)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    return gguf.COMMON_NAMES | gguf.ATTENTION_NAMES


def _windows(fields: Fields, num_layers: int) -> list[int | None]:
    """The window of every layer: by `layer_types` where there are any, else from `max_window_layers` on."""
    slides, window = fields.flag("use_sliding_window", False), fields.integer("sliding_window", None)
    first, types = fields.integer("max_window_layers", num_layers), fields.sequence("layer_types", None)
    if not slides or window is None:
        window = None
    if types is None:
        return [window if i >= first else None for i in range(num_layers)]
    if len(types) != num_layers or not set(types) <= {"full_attention", "sliding_attention"}:
        raise fields.error("layer_types", f"{num_layers} of 'full_attention' or 'sliding_attention'")
    return [window if kind == "sliding_attention" else None for kind in types]
