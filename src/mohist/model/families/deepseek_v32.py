"""DeepSeek-V3.2: V3 whose attention sees the tokens that an indexer chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mohist.model import gguf, hf
from mohist.model.config import DecoderConfig, IndexerConfig, MlaConfig
from mohist.model.families import deepseek_v3
from mohist.model.fields import Fields
from mohist.model.origins import Origin, Plain

MODEL_TYPES = ("deepseek_v32",)
GGUF_ARCHITECTURES = ()


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
    config = deepseek_v3.decoder_from_hf(fields, num_dense=num_dense)
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
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Never called: it reads no architecture."""
    raise AssertionError(file)
