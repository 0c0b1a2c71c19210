"""Tiny random models of every family, written by transformers' own classes as Hugging Face folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mohist.engine.runner import CachedAttend
from mohist.kernels.ops import RowPlan, new_cache
from mohist.model.decoder import Decoder
from tests.model.deepseek_moe import DeepseekMoe

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

VOCAB = 96
_DENSE = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_LATENT = _DENSE | {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
}
_GEMMA3 = _DENSE | {
    "pad_token_id": None,  # whose embedding has no gradient
    "hidden_size": 80,  # whose root is no power of two
    "head_dim": 32,
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": 7,
    "query_pre_attn_scalar": 24,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
_INDEX = {"index_topk": 11, "index_head_dim": 24, "index_n_heads": 16}  # so many that no score is a tie at 0
_LIGHTNING = ["linear_attention", "full_attention", "linear_attention"]
_MINIMAX = _DENSE | {
    "head_dim": 24,
    "num_local_experts": 8,
    "layer_types": _LIGHTNING,
    "block_size": 16,
    "full_attn_alpha_factor": 1.5,
    "full_attn_beta_factor": 0.75,
    "linear_attn_alpha_factor": 3.5565588200778455,
    "mlp_alpha_factor": 2.0,
    "mlp_beta_factor": 1.25,
}
_DERIVED = re.compile(r".*\.self_attn\.(slope_rate|(query|key|diagonal)_decay)")
"""Buffers that transformers saves with a model, and makes anew from the config when they are missing."""
_GPT_OSS = _DENSE | {"head_dim": 32, "sliding_window": 7, "num_local_experts": 8, "num_experts_per_tok": 3}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 0.707,
    "mscale_all_dim": 0.9,
}


MINISTRAL_ROPE = {
    **YARN_ROPE,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
    "max_position_embeddings": 256,
    "llama_4_scaling_beta": 0.125,
}
_EXPERTS = {"num_experts_per_tok": 3, "moe_intermediate_size": 32}
_DEEPSEEK_MOE = {
    **_DENSE,
    **_EXPERTS,
    "model_type": "deepseek",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
}


def configs() -> dict[str, Callable[[], Any]]:
    """Every variant that the families claim to support, by name."""
    llama, qwen2, qwen3 = transformers.LlamaConfig, transformers.Qwen2Config, transformers.Qwen3Config
    v2, v3 = transformers.DeepseekV2Config, transformers.DeepseekV3Config
    v32 = transformers.DeepseekV32Config
    gpt_oss, gemma3 = transformers.GptOssConfig, transformers.Gemma3TextConfig
    minimax = transformers.MiniMaxConfig
    glm4, glm4_moe, glm4_lite = (
        transformers.Glm4Config,
        transformers.Glm4MoeConfig,
        transformers.Glm4MoeLiteConfig,
    )
    mistral, ministral3 = transformers.MistralConfig, transformers.Ministral3Config
    smollm3, minimax_m2 = transformers.SmolLM3Config, transformers.MiniMaxM2Config
    glm_experts = _EXPERTS | {"n_routed_experts": 8, "routed_scaling_factor": 2.5}
    lite = {key: value for key, value in _LATENT.items() if key != "first_k_dense_replace"}
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e5}
    groups = {"n_group": 4, "topk_group": 2}
    return {
        "llama": lambda: llama(**_DENSE),
        "llama-tied-llama3": lambda: llama(**_DENSE, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE),
        "llama-linear-bias": lambda: llama(
            **_DENSE, attention_bias=True, mlp_bias=True, rope_parameters=linear
        ),
        "qwen2": lambda: qwen2(**_DENSE, tie_word_embeddings=True),
        "qwen2-sliding": lambda: qwen2(
            **_DENSE,
            use_sliding_window=True,
            sliding_window=7,
            max_window_layers=1,
            rope_parameters=YARN_ROPE,
        ),
        "qwen3": lambda: qwen3(**_DENSE, head_dim=32),
        "deepseek_v2": lambda: v2(
            **_LATENT,
            **groups,
            topk_method="group_limited_greedy",
            routed_scaling_factor=16.0,
            rope_parameters=YARN_ROPE,
        ),
        "deepseek_v2-lite": lambda: v2(**_LATENT | {"q_lora_rank": None}, n_group=1, topk_group=1),
        "deepseek_v3": lambda: v3(**_LATENT, **groups, rope_parameters=YARN_ROPE, num_nextn_predict_layers=1),
        "gemma3_text": lambda: gemma3(**_GEMMA3, rope_parameters=GEMMA3_ROPE),
        "gemma3_text-local": lambda: gemma3(
            **_GEMMA3 | {"layer_types": ["sliding_attention"] * 3}, attention_bias=True
        ),
        "minimax": lambda: minimax(**_MINIMAX),
        "minimax-alike": lambda: minimax(**_DENSE, num_local_experts=4, layer_types=_LIGHTNING),
        "gpt_oss": lambda: gpt_oss(**_GPT_OSS, swiglu_limit=0.2),
        "gpt_oss-plain": lambda: gpt_oss(
            **_GPT_OSS, attention_bias=False, layer_types=["full_attention"] * 3, rope_parameters=linear
        ),
        "deepseek_v32": lambda: v32(**_LATENT, **groups, **_INDEX, rope_parameters=YARN_ROPE),
        "deepseek_v32-wide": lambda: v32(**_LATENT, n_group=1, topk_group=1, **_INDEX | {"index_topk": 200}),
        "deepseek_v3-halves": lambda: v3(**_LATENT, **groups, rope_interleave=False),
        "deepseek_v3-gigachat3": lambda: v3(**_LATENT | {"q_lora_rank": None}, n_group=1, topk_group=1),
        "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
            **_DENSE, **_EXPERTS, head_dim=32, num_experts=8, norm_topk_prob=True
        ),
        "deepseek": lambda: dict(_DEEPSEEK_MOE),
        "glm4": lambda: glm4(**_DENSE, head_dim=16, pad_token_id=None, eos_token_id=2),
        "glm4_moe": lambda: glm4_moe(**_DENSE, **glm_experts, use_qk_norm=True, attention_bias=True),
        "glm4_moe-air": lambda: glm4_moe(**_DENSE, **glm_experts, first_k_dense_replace=2),
        "glm4_moe_lite": lambda: glm4_lite(**lite, mlp_layer_types=["dense", "dense", "sparse"]),
        "minimax_m2": lambda: minimax_m2(
            **_DENSE, head_dim=32, rotary_dim=16, num_local_experts=8, num_experts_per_tok=3
        ),
        "smollm3": lambda: smollm3(**_DENSE | {"num_hidden_layers": 4}, pad_token_id=None),
        "smollm3-sliding": lambda: smollm3(
            **_DENSE,
            pad_token_id=None,
            no_rope_layers=[1, 0, 1],
            use_sliding_window=True,
            sliding_window=7,
            tie_word_embeddings=False,
        ),
        "seed_oss": lambda: transformers.SeedOssConfig(**_DENSE, head_dim=32),
        "mistral": lambda: mistral(**_DENSE, head_dim=32, sliding_window=None),
        "mistral-sliding": lambda: mistral(**_DENSE, sliding_window=7),
        "ministral3": lambda: ministral3(**_DENSE, head_dim=32, rope_parameters=MINISTRAL_ROPE),
    }


GGUF: dict[str, dict[str, Any]] = {
    "gpt_oss": {"swiglu_limit": 7.0},
    "gemma3_text": {"query_pre_attn_scalar": _GEMMA3["head_dim"]},
    "minimax": {
        **dict.fromkeys(("full_attn_alpha_factor", "linear_attn_alpha_factor", "mlp_alpha_factor"), 3.5),
        **dict.fromkeys(("full_attn_beta_factor", "linear_attn_beta_factor", "mlp_beta_factor"), 1.0),
    },
    "deepseek_v32": {
        "index_head_dim": 64,
        "rope_parameters": YARN_ROPE | {"mscale": 1.0, "mscale_all_dim": 1.0},
    },
}
"""What must be otherwise in a variant, so that a GGUF file can hold it."""


def reference(name: str, **changes: Any) -> Any:
    """transformers' model with random weights: norms near 1, everything else near 0, selection biases too.

    `changes` are fields of the config with other values.
    """
    config = configs()[name]()
    if isinstance(config, dict):
        config |= changes
    else:
        config.update(changes)
    model = (
        DeepseekMoe(config).eval()
        if isinstance(config, dict)
        else transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    )
    generator = torch.Generator().manual_seed(11)
    biases = [b for key, b in model.named_buffers() if key.endswith("e_score_correction_bias")]
    with torch.no_grad():
        for key, parameter in [*model.named_parameters(), *(("bias", b) for b in biases)]:
            center = 1.0 if "norm" in key else 0.0
            parameter.copy_(center + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def weights(stored: Iterable[str]) -> set[str]:
    """The names that are not derived from the config."""
    return {name for name in stored if not _DERIVED.fullmatch(name)}


def write(name: str, folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The reference model, also saved to `folder`."""
    model = reference(name, **changes).to(dtype)
    model.save_pretrained(folder)
    return model


def read(folder: Path) -> Any:
    """What transformers, or our reference of what it lacks, makes of a folder, in float32."""
    if json.loads((folder / "config.json").read_text())["model_type"] == "deepseek":
        return DeepseekMoe.from_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )


def tokens(count: int, seed: int = 0) -> Tensor:
    """Random int32 tokens [count]."""
    return torch.randint(VOCAB, (count,), generator=torch.Generator().manual_seed(seed)).int()


class Paged:
    """A paged cache of shuffled blocks, as an engine would keep for one sequence."""

    def __init__(self, decoder: Decoder, num_tokens: int) -> None:
        self._ops, count = decoder.ops, -(-num_tokens // 16)
        self._table = torch.randperm(count, generator=torch.Generator().manual_seed(1)).int()[None]
        self._caches = {
            spec: new_cache(spec, num_blocks=count, block_size=16, device=decoder.ops.device)
            for spec in decoder.cache_specs
        }

    def at(self, positions_T: Tensor) -> CachedAttend:
        """Attends for rows at these positions."""
        rows = RowPlan(positions_T, torch.zeros_like(positions_T), self._table)
        return CachedAttend(self._ops, self._caches, rows)


def typical(actual: Tensor, expected: Tensor) -> float:
    """Mean difference, relative to the spread of what is expected; experts may flip in between."""
    return float((actual - expected).abs().mean() / expected.std())


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the range of what is expected."""
    return float((actual - expected).abs().max() / (expected.max() - expected.min()))
