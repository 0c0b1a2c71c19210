"""DeepSeek-V2 and V2-Lite: latent attention; experts by softmax, limited to groups by their best member."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.errors import ModelError
from mohist.model import gguf, hf, hf_rope
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig, MlaConfig, MoeConfig
from mohist.model.fields import Fields
from mohist.model.gguf_metadata import common_to_gguf, dense_then_sparse_to_gguf
from mohist.model.origins import KeyPart, Origin, Plain, ValuePart

MODEL_TYPES = ("deepseek_v2",)
GGUF_ARCHITECTURES = ("deepseek2",)

SIGMOID = 2
"""llama.cpp's number for the gating function of V3; 1 is softmax."""


def config_from_hf(fields: Fields) -> DecoderConfig:
    """See `mohist.model.family.Family`."""
    fields.expect("scoring_func", "softmax")
    # transformers ignores this field here and DeepSeek's code skips the scale with it; no release sets it.
    fields.expect("norm_topk_prob", False)
    fields.skip("head_dim")
    grouped = fields.text("topk_method", "greedy") == "group_limited_greedy"
    fields.expect("topk_method", "greedy", "group_limited_greedy")
    num_groups, top_groups = fields.integer("n_group", 1), fields.integer("topk_group", 1)
    moe = MoeConfig(
        **moe_from_hf(fields),
        scoring="softmax",
        selection_bias=False,
        num_groups=num_groups if grouped else 1,
        top_groups=top_groups if grouped else 1,
        group_score="max",
        renormalize=False,
        scale=fields.number("routed_scaling_factor", 1.0),
    )
    return decoder_from_hf(
        fields, moe, interleaved=True, num_dense=fields.integer("first_k_dense_replace", 0)
    )


def moe_from_hf(fields: Fields) -> dict[str, Any]:
    """The arguments of `MoeConfig` that V2 and V3 take from the same fields."""
    fields.expect("moe_layer_freq", 1)
    fields.skip("aux_loss_alpha", "ep_size", "output_router_logits", "seq_aux")
    width = fields.integer("moe_intermediate_size")
    return {
        "num_experts": fields.integer("n_routed_experts"),
        "top_k": fields.integer("num_experts_per_tok"),
        "width": width,
        "shared_width": width * fields.integer("n_shared_experts", 0),
    }


def decoder_from_hf(
    fields: Fields, moe: MoeConfig, *, interleaved: bool, num_dense: int, mtp_layers: int = 0
) -> DecoderConfig:
    """The rest of the config, alike in V2 and V3."""
    common = hf.common_from_hf(fields)
    fields.expect("attention_bias", False)
    fields.expect("mlp_bias", False)
    mixer = MlaConfig(
        num_heads=fields.integer("num_attention_heads"),
        q_rank=fields.integer("q_lora_rank", None),
        kv_rank=fields.integer("kv_lora_rank"),
        nope_dim=fields.integer("qk_nope_head_dim"),
        rope=hf_rope.rope_from_hf(
            fields,
            head_dim=fields.integer("qk_rope_head_dim"),
            max_positions=common["max_positions"],
            interleaved=interleaved,
        ),
        value_dim=fields.integer("v_head_dim"),
    )
    fields.expect("num_key_value_heads", mixer.num_heads)
    fields.expect("qk_head_dim", mixer.nope_dim + mixer.rope_dim)
    layers = dense_then_sparse(
        mixer,
        DenseConfig(width=fields.integer("intermediate_size")),
        moe,
        num_layers=fields.integer("num_hidden_layers"),
        num_dense=num_dense,
    )
    return DecoderConfig(layers=layers, mtp_layers=mtp_layers, **common)


def dense_then_sparse(
    mixer: GqaConfig | MlaConfig, dense: DenseConfig, moe: MoeConfig, *, num_layers: int, num_dense: int
) -> tuple[LayerConfig, ...]:
    """Layers of one mixer: the first `num_dense` with a dense feed-forward, the others with experts."""
    return tuple(LayerConfig(mixer=mixer, mlp=dense if i < num_dense else moe) for i in range(num_layers))


def config_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """See `mohist.model.family.Family`."""
    moe = config.layers[-1].mlp
    assert isinstance(moe, MoeConfig)
    written = decoder_to_hf(config, architecture="DeepseekV2ForCausalLM", model_type="deepseek_v2")
    return written | {
        "scoring_func": "softmax",
        "topk_method": "greedy" if moe.num_groups == 1 else "group_limited_greedy",
    }


def decoder_to_hf(config: DecoderConfig, *, architecture: str, model_type: str) -> dict[str, Any]:
    """The fields that V2 and V3 write alike."""
    mixer = hf.shared(config.layers, "mixer")
    return {
        **hf.common_to_hf(config, architecture=architecture, model_type=model_type),
        **hf_rope.rope_to_hf(mixer.rope, head_dim=mixer.rope_dim),
        "num_attention_heads": mixer.num_heads,
        "num_key_value_heads": mixer.num_heads,
        "q_lora_rank": mixer.q_rank,
        "kv_lora_rank": mixer.kv_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.value_dim,
        "attention_bias": False,
        **moe_to_hf(config),
    }


def moe_to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The fields of feed-forwards that all of DeepSeek's models write alike."""
    moe, dense = config.layers[-1].mlp, config.layers[0].mlp
    assert isinstance(moe, MoeConfig)
    return {
        # Without a dense layer nothing has this width, but readers expect the field.
        "intermediate_size": dense.width,
        "first_k_dense_replace": sum(isinstance(layer.mlp, DenseConfig) for layer in config.layers),
        "moe_layer_freq": 1,
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": moe.shared_width // moe.width,
        "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.width,
        "n_group": moe.num_groups,
        "topk_group": moe.top_groups,
        "norm_topk_prob": moe.renormalize,
        "routed_scaling_factor": moe.scale,
    }


def hf_origins(config: DecoderConfig) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`."""
    mixer = hf.shared(config.layers, "mixer")
    attention = "model.layers.{layer}.self_attn"
    return (
        hf.COMMON_NAMES
        | hf.EXPERT_NAMES
        | {
            "layers.{layer}.mixer.q": Plain(f"{attention}.q_proj.weight"),
            "layers.{layer}.mixer.q_down": Plain(f"{attention}.q_a_proj.weight"),
            "layers.{layer}.mixer.q_latent_norm": Plain(f"{attention}.q_a_layernorm.weight"),
            "layers.{layer}.mixer.q_up": Plain(f"{attention}.q_b_proj.weight"),
            "layers.{layer}.mixer.kv_down": Plain(f"{attention}.kv_a_proj_with_mqa.weight"),
            "layers.{layer}.mixer.kv_latent_norm": Plain(f"{attention}.kv_a_layernorm.weight"),
            "layers.{layer}.mixer.key_up": KeyPart(f"{attention}.kv_b_proj.weight", mixer.value_dim),
            "layers.{layer}.mixer.value_up": ValuePart(f"{attention}.kv_b_proj.weight", mixer.nope_dim),
            "layers.{layer}.mixer.o": Plain(f"{attention}.o_proj.weight"),
        }
    )


def config_from_gguf(file: gguf.GgufFile) -> DecoderConfig:
    """See `mohist.model.family.Family`. llama.cpp has one architecture for V2 and V3."""
    common, fields = gguf.common_from_gguf(file), file.fields
    sigmoid = fields.integer("expert_gating_func", 1) == SIGMOID
    fields.expect("expert_gating_func", 1, SIGMOID)
    mixer = _mixer_from_gguf(file)
    num_groups, top_groups = _groups_from_gguf(fields, mixer)
    width = fields.integer("expert_feed_forward_length")
    moe = MoeConfig(
        num_experts=fields.integer("expert_count"),
        top_k=fields.integer("expert_used_count"),
        width=width,
        shared_width=width * fields.integer("expert_shared_count", 0),
        scoring="sigmoid" if sigmoid else "softmax",
        selection_bias=sigmoid,
        num_groups=num_groups,
        top_groups=top_groups,
        group_score="top2" if sigmoid else "max",
        renormalize=fields.flag("expert_weights_norm", False),
        scale=gguf.as_said(fields.number("expert_weights_scale", 1.0)),
    )
    # Blocks of MTP modules come last, and stay on disk.
    num_layers = fields.integer("block_count") - fields.integer("nextn_predict_layers", 0)
    layers = dense_then_sparse(
        mixer,
        DenseConfig(width=fields.integer("feed_forward_length")),
        moe,
        num_layers=num_layers,
        num_dense=fields.integer("leading_dense_block_count", 0),
    )
    common["family"] = "deepseek_v3" if sigmoid else "deepseek_v2"
    return DecoderConfig(layers=layers, **common)


def config_to_gguf(config: DecoderConfig) -> tuple[str, dict[str, Any]]:
    """See `mohist.model.family.GgufFamily`. The plain head widths are those that llama.cpp caches.

    llama.cpp adds up the two best experts of a group in V2, too, and so is wrong for 236B (docs/log.md).
    """
    mixer = hf.shared(config.layers, "mixer")
    if not mixer.rope.interleaved:
        raise ModelError(
            "rope_interleave = False: llama.cpp turns neighbouring values in the deepseek2 architecture, so "
            "no GGUF file can hold this model"
        )
    moe = config.layers[-1].mlp
    assert isinstance(moe, MoeConfig)
    keys = {
        **common_to_gguf(config),
        **dense_then_sparse_to_gguf(config),
        "attention.head_count": mixer.num_heads,
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": mixer.kv_rank,
        "attention.key_length": mixer.kv_rank + mixer.rope_dim,
        "attention.value_length": mixer.kv_rank,
        "attention.key_length_mla": mixer.nope_dim + mixer.rope_dim,
        "attention.value_length_mla": mixer.value_dim,
        "expert_group_count": moe.num_groups,
        "expert_group_used_count": moe.top_groups,
    }
    return "deepseek2", keys if mixer.q_rank is None else keys | {"attention.q_lora_rank": mixer.q_rank}


def gguf_origins(config: DecoderConfig, file: gguf.GgufFile) -> Mapping[str, Origin]:
    """See `mohist.model.family.Family`. Newer files hold the key and value parts apart."""
    mixer = hf.shared(config.layers, "mixer")
    names: dict[str, Origin] = {
        "layers.{layer}.mixer.q": Plain("blk.{layer}.attn_q.weight"),
        "layers.{layer}.mixer.q_down": Plain("blk.{layer}.attn_q_a.weight"),
        "layers.{layer}.mixer.q_latent_norm": Plain("blk.{layer}.attn_q_a_norm.weight"),
        "layers.{layer}.mixer.q_up": Plain("blk.{layer}.attn_q_b.weight"),
        "layers.{layer}.mixer.kv_down": Plain("blk.{layer}.attn_kv_a_mqa.weight"),
        "layers.{layer}.mixer.kv_latent_norm": Plain("blk.{layer}.attn_kv_a_norm.weight"),
        "layers.{layer}.mixer.key_up": Plain("blk.{layer}.attn_k_b.weight"),
        "layers.{layer}.mixer.value_up": Plain("blk.{layer}.attn_v_b.weight"),
        "layers.{layer}.mixer.o": Plain("blk.{layer}.attn_output.weight"),
    }
    if "blk.0.attn_kv_b.weight" in file.tensors:
        fused = "blk.{layer}.attn_kv_b.weight"
        names["layers.{layer}.mixer.key_up"] = KeyPart(fused, mixer.value_dim)
        names["layers.{layer}.mixer.value_up"] = ValuePart(fused, mixer.nope_dim)
    return gguf.COMMON_NAMES | gguf.EXPERT_NAMES | names


def _mixer_from_gguf(file: gguf.GgufFile) -> MlaConfig:
    """Head widths: under `_mla` keys in newer files, whose plain ones tell the cached widths instead."""
    fields = file.fields
    rope_dim = fields.integer("rope.dimension_count")
    key_length = fields.integer("attention.key_length")
    value_length = fields.integer("attention.value_length")
    fields.skip("attention.head_count_kv")
    return MlaConfig(
        num_heads=fields.integer("attention.head_count"),
        q_rank=fields.integer("attention.q_lora_rank", None),
        kv_rank=fields.integer("attention.kv_lora_rank"),
        nope_dim=fields.integer("attention.key_length_mla", key_length) - rope_dim,
        rope=gguf.rope_from_gguf(file, head_dim=rope_dim, interleaved=True, latent=True),
        value_dim=fields.integer("attention.value_length_mla", value_length),
    )


def _groups_from_gguf(fields: Fields, mixer: MlaConfig) -> tuple[int, int]:
    """Expert groups, which older files leave out; of the models in those, V2-Lite has only one."""
    num_groups = fields.integer("expert_group_count", 0)
    top_groups = fields.integer("expert_group_used_count", 0)
    if num_groups and top_groups:
        return num_groups, top_groups
    if mixer.q_rank is None:
        return 1, 1
    raise ModelError(
        "GGUF metadata deepseek2.*: expert_group_count is missing, so choosing experts would be a guess; "
        "convert the model anew with a current llama.cpp"
    )
