"""What GGUF files of different architectures share: common metadata, rope scaling, tensor names."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np

from mohist.model.config import DecoderConfig, GqaConfig
from mohist.model.fields import Fields
from mohist.model.origins import Origin, Plain, Unpermuted
from mohist.model.rope_config import LinearScaling, RopeConfig, TableScaling, YarnScaling

__all__ = [
    "ATTENTION_NAMES",
    "COMMON_NAMES",
    "EXPERT_NAMES",
    "GgufFile",
    "as_said",
    "common_from_gguf",
    "gqa_from_gguf",
    "interleaved_heads",
    "rope_from_gguf",
    "windows_from_gguf",
]

COMMON_NAMES: dict[str, Origin] = {
    "embed": Plain("token_embd.weight"),
    "norm": Plain("output_norm.weight"),
    "head": Plain("output.weight"),
    "layers.{layer}.mixer_norm": Plain("blk.{layer}.attn_norm.weight"),
    "layers.{layer}.mlp_norm": Plain("blk.{layer}.ffn_norm.weight"),
    "layers.{layer}.mlp.gate": Plain("blk.{layer}.ffn_gate.weight"),
    "layers.{layer}.mlp.up": Plain("blk.{layer}.ffn_up.weight"),
    "layers.{layer}.mlp.down": Plain("blk.{layer}.ffn_down.weight"),
    "layers.{layer}.mlp.gate_bias": Plain("blk.{layer}.ffn_gate.bias"),
    "layers.{layer}.mlp.up_bias": Plain("blk.{layer}.ffn_up.bias"),
    "layers.{layer}.mlp.down_bias": Plain("blk.{layer}.ffn_down.bias"),
}

ATTENTION_NAMES: dict[str, Origin] = {
    "layers.{layer}.mixer.q": Plain("blk.{layer}.attn_q.weight"),
    "layers.{layer}.mixer.k": Plain("blk.{layer}.attn_k.weight"),
    "layers.{layer}.mixer.v": Plain("blk.{layer}.attn_v.weight"),
    "layers.{layer}.mixer.o": Plain("blk.{layer}.attn_output.weight"),
    "layers.{layer}.mixer.q_bias": Plain("blk.{layer}.attn_q.bias"),
    "layers.{layer}.mixer.k_bias": Plain("blk.{layer}.attn_k.bias"),
    "layers.{layer}.mixer.v_bias": Plain("blk.{layer}.attn_v.bias"),
    "layers.{layer}.mixer.o_bias": Plain("blk.{layer}.attn_output.bias"),
    "layers.{layer}.mixer.q_norm": Plain("blk.{layer}.attn_q_norm.weight"),
    "layers.{layer}.mixer.k_norm": Plain("blk.{layer}.attn_k_norm.weight"),
}

EXPERT_NAMES: dict[str, Origin] = {
    "layers.{layer}.mlp.router": Plain("blk.{layer}.ffn_gate_inp.weight"),
    "layers.{layer}.mlp.router_bias": Plain("blk.{layer}.exp_probs_b.bias"),
    "layers.{layer}.mlp.experts.gate": Plain("blk.{layer}.ffn_gate_exps.weight"),
    "layers.{layer}.mlp.experts.up": Plain("blk.{layer}.ffn_up_exps.weight"),
    "layers.{layer}.mlp.experts.down": Plain("blk.{layer}.ffn_down_exps.weight"),
    "layers.{layer}.mlp.shared.gate": Plain("blk.{layer}.ffn_gate_shexp.weight"),
    "layers.{layer}.mlp.shared.up": Plain("blk.{layer}.ffn_up_shexp.weight"),
    "layers.{layer}.mlp.shared.down": Plain("blk.{layer}.ffn_down_shexp.weight"),
}

ROPE_DIVISORS = "rope_freqs.weight"
"""One divisor a rope pair; how GGUF keeps Llama 3's frequency scaling."""


class GgufFile:
    """A GGUF file as a family sees it."""

    def __init__(
        self,
        fields: Fields,
        tokenizer: Fields,
        tensors: Collection[str],
        rope_divisors: tuple[float, ...] | None,
    ) -> None:
        self.fields = fields
        """Keys without the architecture's prefix."""
        self.tokenizer = tokenizer
        """Keys without `tokenizer.ggml.`."""
        self.tensors = tensors
        self.rope_divisors = rope_divisors

    @classmethod
    def empty(cls, family: str) -> GgufFile:
        """A file that is still to be written: it holds nothing that a family could find in it."""
        nothing = Fields({}, family=family, where="a new GGUF file")
        return cls(nothing, nothing, (), None)


def as_said(value: float, *, times: int = 1) -> float:
    """The shortest decimal number that float32 rounds to `value`, times a count.

    GGUF keeps numbers in float32: where the config that was converted said 1e-6, this says so again.
    """
    return float(Decimal(str(np.float32(value))) * times)


def common_from_gguf(file: GgufFile) -> dict[str, Any]:
    """The arguments of `DecoderConfig` that all architectures take from the same keys."""
    fields = file.fields
    fields.skip("vocab_size")
    bos_tokens = file.tokenizer.tokens("bos_token_id")
    return {
        "family": fields.family,
        "vocab_size": len(file.tokenizer.sequence("tokens")),
        "hidden_size": fields.integer("embedding_length"),
        "norm_eps": as_said(fields.number("attention.layer_norm_rms_epsilon")),
        "tie_embeddings": "output.weight" not in file.tensors,
        "max_positions": fields.integer("context_length"),
        "bos_token": bos_tokens[0] if bos_tokens else None,
        "eos_tokens": file.tokenizer.tokens("eos_token_id"),
    }


def gqa_from_gguf(file: GgufFile, *, interleaved: bool = False) -> GqaConfig:
    """Heads, biases and rope of grouped-query attention, to which a family adds the rest."""
    fields = file.fields
    num_heads = fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", fields.integer("embedding_length") // num_heads)
    fields.expect("attention.value_length", head_dim)
    return GqaConfig(
        num_heads=num_heads,
        num_kv_heads=fields.integer("attention.head_count_kv", num_heads),
        head_dim=head_dim,
        rope=rope_from_gguf(file, head_dim=head_dim, interleaved=interleaved),
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
    )


def interleaved_heads(config: DecoderConfig) -> dict[str, Origin]:
    """Queries and keys of the architectures whose rope pairs llama.cpp's converter interleaves."""
    mixer = config.layers[0].mixer
    assert isinstance(mixer, GqaConfig)
    origins: dict[str, Origin] = {}
    for name, num_heads in (("q", mixer.num_heads), ("k", mixer.num_kv_heads)):
        for ours, theirs in ((name, "weight"), (f"{name}_bias", "bias")):
            stored = f"blk.{{layer}}.attn_{name}.{theirs}"
            origins[f"layers.{{layer}}.mixer.{ours}"] = Unpermuted(stored, num_heads)
    return origins


def windows_from_gguf(file: GgufFile, *, interval: int) -> list[int | None]:
    """The window of every layer; without a list, every layer slides but each `interval`-th."""
    fields = file.fields
    num_layers, window = fields.integer("block_count"), fields.integer("attention.sliding_window", 0)
    sliding = fields.sequence(
        "attention.sliding_window_pattern", [(i + 1) % interval != 0 for i in range(num_layers)]
    )
    if len(sliding) != num_layers:
        raise fields.error("attention.sliding_window_pattern", f"{num_layers} of true or false")
    return [window if slides and window else None for slides in sliding]


def rope_from_gguf(
    file: GgufFile, *, head_dim: int, interleaved: bool = False, latent: bool = False
) -> RopeConfig:
    """Rope from the `rope.*` keys and the table of divisors.

    YaRN's `yarn_log_multiplier` is mscale_all_dim, and mscale is 1; with latent attention it is a tenth of
    mscale_all_dim, and mscale is equal to that (llama.cpp's `llama-context.cpp` and converter).
    """
    fields = file.fields
    dim = fields.integer("rope.dimension_count", head_dim)
    theta = as_said(fields.number("rope.freq_base", 10_000.0))
    kind = fields.text("rope.scaling.type", "none")
    factor = as_said(fields.number("rope.scaling.factor", 1.0))
    fields.skip("rope.scaling.finetuned")
    for one in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        fields.expect(f"rope.scaling.{one}", 1.0)
    original = fields.integer("rope.scaling.original_context_length", None)
    scaling: LinearScaling | TableScaling | YarnScaling | None = None
    if kind == "yarn":
        multiplier = as_said(
            fields.number("rope.scaling.yarn_log_multiplier", 0.0), times=10 if latent else 1
        )
        scaling = YarnScaling(
            factor=factor,
            original_positions=original or fields.integer("context_length"),
            beta_fast=as_said(fields.number("rope.scaling.yarn_beta_fast", 32.0)),
            beta_slow=as_said(fields.number("rope.scaling.yarn_beta_slow", 1.0)),
            mscale=(multiplier if latent else 1.0) if multiplier else None,
            mscale_all_dim=multiplier or None,
        )
    elif kind == "linear":
        scaling = LinearScaling(factor=factor)
    elif kind != "none":
        raise fields.error("rope.scaling.type", "'none', 'linear' or 'yarn'")
    if file.rope_divisors is not None:
        if scaling is not None:
            raise fields.error("rope.scaling.type", f"'none' beside the tensor {ROPE_DIVISORS!r}")
        scaling = TableScaling(divisors=file.rope_divisors)
    return RopeConfig(dim=dim, theta=theta, interleaved=interleaved, scaling=scaling)
