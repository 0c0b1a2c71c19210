"""Writes the tiny models as GGUF files with the `gguf` package, the way llama.cpp's converter does."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.model import tiny

gguf = pytest.importorskip("gguf")

_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "deepseek_v2": gguf.MODEL_ARCH.DEEPSEEK2,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "deepseek": gguf.MODEL_ARCH.DEEPSEEK,
    "glm4": gguf.MODEL_ARCH.GLM4,
    "seed_oss": gguf.MODEL_ARCH.SEED_OSS,
    "glm4_moe": gguf.MODEL_ARCH.GLM4_MOE,
    "minimax_m2": gguf.MODEL_ARCH.MINIMAXM2,
    "smollm3": gguf.MODEL_ARCH.SMOLLM3,
    "ministral3": gguf.MODEL_ARCH.MISTRAL3,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "glm4_moe_lite": gguf.MODEL_ARCH.DEEPSEEK2,
    "gpt_oss": gguf.MODEL_ARCH.GPT_OSS,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
_LATER = {
    "deepseek_v32": ("deepseek32", gguf.MODEL_ARCH.DEEPSEEK2),
    "minimax": ("minimax-01", gguf.MODEL_ARCH.MINIMAXM2),
}
"""Architectures that the package does not know yet, and whose names for tensors they share, ..."""
_LATER_NAMES = {
    "self_attn.indexer.wq_b": "indexer.attn_q_b",
    "self_attn.indexer.wk": "indexer.attn_k",
    "self_attn.indexer.k_norm": "indexer.k_norm",
    "self_attn.indexer.weights_proj": "indexer.proj",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.output_gate": "attn_gate",
    "self_attn.norm": "attn_norm_2",
    "mlp.gate.e_score_correction": "exp_probs_b",
    "block_sparse_moe.e_score_correction": "exp_probs_b",
}
"""... except for these (llama.cpp's `tensor_mapping.py`)."""
_INTERLEAVED = {"llama", "deepseek", "smollm3", "ministral3", "mistral"}
"""Model types whose queries and keys the converter permutes."""


def convert(
    model: Any, folder: Path, path: Path, *, quantized: str | None = None, split_kv_b: bool = True
) -> None:
    """The model in `folder` (config from `model`) as one GGUF file; matrices in f32, or quantised."""
    config = model.config
    if isinstance(config, dict):
        config = SimpleNamespace(
            **config, rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]}
        )
    known = _ARCHITECTURES.get(config.model_type)
    name, like = (gguf.MODEL_ARCH_NAMES[known], known) if known else _LATER[config.model_type]
    writer = gguf.GGUFWriter(path, name)
    _metadata(writer, config, split_kv_b=split_kv_b)
    names = gguf.get_tensor_name_map(like, config.num_hidden_layers)
    stored_tensors = load_file(folder / "model.safetensors")
    tensors = {name: stored_tensors[name].float() for name in tiny.weights(stored_tensors)}
    for name, tensor in _converted(tensors, config, split_kv_b):
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            match = re.fullmatch(r"model\.layers\.(\d+)\.(.*)[._](weight|bias)", name)
            assert match is not None
            stored = f"blk.{match[1]}.{_LATER_NAMES[match[2]]}.{match[3]}"
        if quantized is None or tensor.dim() == 1:
            writer.add_tensor(stored, tensor.numpy())
        else:
            kind = gguf.GGMLQuantizationType[quantized]
            writer.add_tensor(stored, gguf.quants.quantize(tensor.numpy(), kind), raw_dtype=kind)
    divisors = llama3_divisors(config)
    if divisors is not None:
        writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(tensor: Tensor, num_heads: int) -> Tensor:
    """Rows of every head from halves to neighbouring rope pairs, as the converter of `llama` leaves them."""
    return tensor.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)


def llama3_divisors(config: Any) -> np.ndarray | None:
    """The converter's `rope_freqs`: how much slower each pair turns."""
    if config.rope_parameters.get("rope_type") != "llama3":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
    return (config.rope_parameters["rope_theta"] ** -pairs / scaled).float().numpy()


def _converted(tensors: dict[str, Tensor], config: Any, split_kv_b: bool) -> list[tuple[str, Tensor]]:
    result: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if config.model_type == "gpt_oss":
            result |= _of_gpt_oss(name, tensor)
            continue
        if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
            result[name] = tensor + 1.0
            continue
        expert = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if expert:
            experts.setdefault(f"{expert[1]}.{expert[3]}", {})[int(expert[2])] = tensor
        elif split_kv_b and "kv_b_proj" in name:
            parts = tensor.unflatten(0, (config.num_attention_heads, -1))
            key, value = parts.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
            result[name.replace("kv_b_proj", "k_b_proj")] = key.transpose(1, 2).contiguous()
            result[name.replace("kv_b_proj", "v_b_proj")] = value.contiguous()
        elif config.model_type in _INTERLEAVED and "q_proj" in name:
            result[name] = permuted(tensor, config.num_attention_heads)
        elif config.model_type in _INTERLEAVED and "k_proj" in name:
            result[name] = permuted(tensor, config.num_key_value_heads)
        else:
            result[name] = tensor
    for name, by_expert in experts.items():
        result[name] = torch.stack([by_expert[index] for index in range(len(by_expert))])
    return list(result.items())


def _of_gpt_oss(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Experts as rows of matrices, gates and ups apart; all names end in .weight or .bias."""
    if name.endswith("sinks"):
        return {f"{name}.weight": tensor}
    if ".experts." not in name:
        return {name: tensor}
    stored, kind = (name.removesuffix("_bias"), "bias") if name.endswith("_bias") else (name, "weight")
    rows = tensor if kind == "bias" else tensor.transpose(1, 2)
    if stored.endswith("down_proj"):
        return {f"{stored}.{kind}": rows.contiguous()}
    return {
        f"{stored.replace('gate_up', part)}.{kind}": rows[:, first::2].contiguous()
        for first, part in enumerate(("gate", "up"))
    }


def _metadata(writer: Any, config: Any, *, split_kv_b: bool) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"<{token}>" for token in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    if "sliding_attention" in config.rope_parameters:
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if "partial_rotary_factor" in rope:
        writer.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if "llama_4_scaling_beta" in rope:
        writer.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
        writer.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("yarn", "linear"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if config.model_type == "minimax":
        recurrent = [kind == "linear_attention" for kind in config.layer_types]
        writer.add_array(f"{_LATER['minimax'][0]}.attention.recurrent_layers", recurrent)
        writer.add_residual_scale(config.mlp_alpha_factor)
    if hasattr(config, "kv_lora_rank"):
        _deepseek_metadata(writer, config, split_kv_b=split_kv_b)
    else:
        _expert_metadata(writer, config)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)


def _expert_metadata(writer: Any, config: Any) -> None:
    experts = getattr(config, "n_routed_experts", None) or getattr(config, "num_local_experts", None)
    if experts is None:
        return
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(getattr(config, "moe_intermediate_size", config.intermediate_size))
    if hasattr(config, "n_shared_experts"):
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_weights_scale(getattr(config, "routed_scaling_factor", 1.0))
    if config.model_type in ("glm4_moe", "minimax_m2"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config.model_type == "glm4_moe":
        writer.add_expert_weights_norm(config.norm_topk_prob)


def _deepseek_metadata(writer: Any, config: Any, *, split_kv_b: bool) -> None:
    query = config.qk_nope_head_dim + config.qk_rope_head_dim
    if split_kv_b:
        writer.add_head_count_kv(1)
        writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
        writer.add_value_length(config.kv_lora_rank)
        writer.add_key_length_mla(query)
        writer.add_value_length_mla(config.v_head_dim)
    else:
        writer.add_head_count_kv(config.num_attention_heads)
        writer.add_key_length(query)
        writer.add_value_length(config.v_head_dim)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    dense = getattr(config, "first_k_dense_replace", None)
    writer.add_leading_dense_block_count(config.mlp_layer_types.count("dense") if dense is None else dense)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    if config.q_lora_rank is not None:
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)
    if config.model_type == "deepseek_v32":
        prefix = f"{_LATER['deepseek_v32'][0]}.attention.indexer"
        writer.add_uint32(f"{prefix}.head_count", config.index_n_heads)
        writer.add_uint32(f"{prefix}.key_length", config.index_head_dim)
        writer.add_uint32(f"{prefix}.top_k", config.index_topk)
    if config.model_type in ("deepseek_v3", "deepseek_v32", "glm4_moe_lite"):
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        writer.add_expert_weights_norm(config.norm_topk_prob)
    if config.rope_parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_yarn_log_mul(0.1 * config.rope_parameters["mscale_all_dim"])
