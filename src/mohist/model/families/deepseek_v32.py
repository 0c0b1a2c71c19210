"""DeepSeek-V3.2: V3 whose attention sees the tokens that an indexer chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, IndexerConfig, MlaConfig
from mohist.model.families import deepseek_v3
from mohist.model.fields import Fields
from mohist.model.origins import Origin, Plain
from mohist.model.rope_config import YarnScaling

MODEL_TYPES = ("deepseek_v32",)
GGUF_ARCHITECTURES = ("deepseek32",)

_LEAST_WIDTH = 64


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    indexer = IndexerConfig(
        num_heads=fields.integer("index_n_heads"),
        head_dim=fields.integer("index_head_dim"),
        top_k=fields.integer("index_topk"),
    )
    num_layers = fields.integer("num_hidden_layers")
    num_dense = min(fields.integer("first_k_dense_replace", 3), num_layers)
    fields.expect("mlp_layer_types", ["dense"] * num_dense + ["sparse"] * (num_layers - num_dense))
    fields.expect("layer_types", ["indexed_attention"] * num_layers)
    return _indexed(deepseek_v3.decoder_from_hf(fields, num_dense=num_dense), indexer)


def _indexed(config: DecoderConfig, indexer: IndexerConfig) -> DecoderConfig:
    layers = []
    for layer in config.layers:
        assert isinstance(layer.mixer, MlaConfig)
        layers.append(replace(layer, mixer=replace(layer.mixer, indexer=indexer)))
    return replace(config, layers=tuple(layers))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    indexer = hf.shared(config.layers, "mixer", "indexer")
    written = deepseek_v3.decoder_to_hf(
        config, architecture="DeepseekV32ForCausalLM", model_type="deepseek_v32"
    )
    return written | {
        "index_n_heads": indexer.num_heads,
        "index_head_dim": indexer.head_dim,
        "index_topk": indexer.top_k,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    indexer = "model.layers.{layer}.self_attn.indexer"
    return {
        **deepseek_v3.hf_origins(config),
        "layers.{layer}.mixer.indexer.q_up": Plain(f"{indexer}.wq_b.weight"),
        "layers.{layer}.mixer.indexer.k": Plain(f"{indexer}.wk.weight"),
        "layers.{layer}.mixer.indexer.k_norm": Plain(f"{indexer}.k_norm.weight"),
        "layers.{layer}.mixer.indexer.k_norm_bias": Plain(f"{indexer}.k_norm.bias"),
        "layers.{layer}.mixer.indexer.weigh": Plain(f"{indexer}.weights_proj.weight"),
    }


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields = file.fields
    indexer = IndexerConfig(
        num_heads=fields.integer("attention.indexer.head_count"),
        head_dim=fields.integer("attention.indexer.key_length"),
        top_k=fields.integer("attention.indexer.top_k"),
    )
    config = _indexed(deepseek_v3.config_from_gguf(file), indexer)
    return replace(config, family=fields.family)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. llama.cpp turns the indexer's vectors with a Hadamard matrix."""
    mixer = hf.shared(config.layers, "mixer")
    width, scaling = mixer.indexer.head_dim, mixer.rope.scaling
    if width < _LEAST_WIDTH or width & (width - 1):
        raise ModelError(
            f"index_head_dim = {width}: llama.cpp needs a power of two, from {_LEAST_WIDTH} on, in deepseek32"
        )
    if isinstance(scaling, YarnScaling) and scaling.mscale not in (None, 1.0):
        raise ModelError(
            f"mscale = {scaling.mscale}: llama.cpp takes it to be 1 in the deepseek32 architecture"
        )
    _, keys = deepseek_v3.config_to_gguf(config)
    return "deepseek32", {
        **keys,
        "attention.indexer.head_count": mixer.indexer.num_heads,
        "attention.indexer.key_length": width,
        "attention.indexer.top_k": mixer.indexer.top_k,
    }


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    indexer = "blk.{layer}.indexer"
    return {
        **deepseek_v3.gguf_origins(config, file),
        "layers.{layer}.mixer.indexer.q_up": Plain(f"{indexer}.attn_q_b.weight"),
        "layers.{layer}.mixer.indexer.k": Plain(f"{indexer}.attn_k.weight"),
        "layers.{layer}.mixer.indexer.k_norm": Plain(f"{indexer}.k_norm.weight"),
        "layers.{layer}.mixer.indexer.k_norm_bias": Plain(f"{indexer}.k_norm.bias"),
        "layers.{layer}.mixer.indexer.weigh": Plain(f"{indexer}.proj.weight"),
    }
