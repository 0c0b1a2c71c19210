"""What a decoder is: plain frozen data, without torch. Families translate their own configs into these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mohist.kernels.activation import SILU, Activation
from mohist.model.checks import require
from mohist.model.rope_config import RopeConfig

__all__ = [
    "DecoderConfig",
    "DenseConfig",
    "GqaConfig",
    "IndexerConfig",
    "LayerConfig",
    "LightningConfig",
    "MlaConfig",
    "MoeConfig",
    "ResidualScales",
]


@dataclass(frozen=True, kw_only=True)
class GqaConfig:
    """Softmax attention with grouped key/value heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig | None
    """None leaves positions out: the layer sees a set of earlier tokens (NoPE)."""
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["head", "projection"] | None = None
    """RMSNorm of queries and of keys before rope: of every head, or of all heads as one long row."""
    window: int | None = None
    """Tokens that a query sees, itself included; None sees all."""
    scale: float | None = None
    """Multiplies every score; None: 1 / sqrt(head_dim)."""
    sinks: bool = False
    """A trained score for each head joins its softmax and takes a share of it to nowhere (gpt-oss)."""

    def __post_init__(self) -> None:
        groups = self.num_kv_heads
        require(
            groups > 0 and self.num_heads % groups == 0,
            "num_heads",
            self.num_heads,
            f"a multiple of {groups}",
        )
        require(self.head_dim > 0, "head_dim", self.head_dim, "positive")
        require(self.window is None or self.window > 0, "window", self.window, "positive or None")
        if self.rope is not None:
            rotated = self.rope.dim
            require(
                rotated <= self.head_dim, "rope dim", rotated, f"at most {self.head_dim}, the head's width"
            )
            whole = self.rope.query_growth is None or rotated == self.head_dim
            require(whole, "rope dim", rotated, f"{self.head_dim}, the head's width, for queries to grow")


@dataclass(frozen=True, kw_only=True)
class IndexerConfig:
    """Sparse attention: rows see the tokens that a cheap index scores highest (DeepSeek-V3.2)."""

    num_heads: int
    head_dim: int
    top_k: int
    """Tokens that a row attends to; with no more before it, to all."""

    def __post_init__(self) -> None:
        for name in ("num_heads", "head_dim", "top_k"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")


@dataclass(frozen=True, kw_only=True)
class MlaConfig:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1)."""

    num_heads: int
    q_rank: int | None
    """Width of the query latent; None projects queries directly."""
    kv_rank: int
    """Width of the latent that keys and values are unfolded from, and that is cached."""
    nope_dim: int
    """Entries of a head without positions."""
    rope: RopeConfig
    """Of the entries with positions, all of which are rotated; their key is shared by all heads."""
    value_dim: int
    indexer: IndexerConfig | None = None
    """None lets rows see all earlier tokens; else needs a query latent."""

    def __post_init__(self) -> None:
        if self.indexer is not None:
            require(self.q_rank is not None, "q_rank", self.q_rank, "positive for the indexer")
            room = self.indexer.head_dim
            require(self.rope.dim <= room, "rope dim", self.rope.dim, f"at most {room}, the indexer's width")
        for name in ("num_heads", "kv_rank", "nope_dim", "value_dim"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(self.q_rank is None or self.q_rank > 0, "q_rank", self.q_rank, "positive or None")
        growth = self.rope.query_growth
        require(growth is None, "query_growth", growth, "None: half of these heads is not rotated")

    @property
    def rope_dim(self) -> int:
        """Entries of a head with positions."""
        return self.rope.dim


@dataclass(frozen=True, kw_only=True)
class LightningConfig:
    """Linear attention whose state fades, gated after its norm (arXiv 2501.08313, section 2.2)."""

    num_heads: int
    head_dim: int
    slope_scale: float
    """Head h = 1..N forgets by exp(-slope_scale * 2^(-8 h / N)) a position."""

    @property
    def rope(self) -> None:
        """Positions enter by the decay alone."""
        return None

    def __post_init__(self) -> None:
        for name in ("num_heads", "head_dim", "slope_scale"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")


@dataclass(frozen=True, kw_only=True)
class ResidualScales:
    """x' = alpha norm(x) + beta f(norm(x)): the residual path of MiniMax-01, which takes the normed input."""

    mixer_alpha: float = 1.0
    mixer_beta: float = 1.0
    mlp_alpha: float = 1.0
    mlp_beta: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """One gated feed-forward."""

    width: int
    bias: bool = False
    """On gate, up and down."""
    activation: Activation = SILU

    def __post_init__(self) -> None:
        require(self.width > 0, "width", self.width, "positive")


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Routed gated feed-forwards, the experts, beside a shared one that every token takes."""

    num_experts: int
    top_k: int
    width: int
    """Of one routed expert."""
    shared_width: int
    """Of all shared experts together; 0 for none."""
    scoring: Literal["sigmoid", "softmax"]
    selection_bias: bool
    """A bias per expert enters the choice, not the weight (DeepSeek-V3, arXiv 2412.19437, section 2.1.2)."""
    num_groups: int = 1
    top_groups: int = 1
    """Only experts of the best so many groups can be chosen."""
    group_score: Literal["top2", "max"] = "max"
    """A group is as good as its two best experts together, or as its best."""
    renormalize: bool
    """Whether the chosen scores are divided by their sum."""
    scale: float = 1.0
    """Multiplies the weights of the chosen."""
    biases: bool = False
    """Biases on the router's logits and on every projection of the routed experts."""
    activation: Activation = SILU

    def __post_init__(self) -> None:
        groups = self.num_groups
        require(self.width > 0, "width", self.width, "positive")
        require(self.shared_width >= 0, "shared_width", self.shared_width, "at least 0")
        require(groups > 0, "num_groups", groups, "positive")
        require(self.num_experts % groups == 0, "num_experts", self.num_experts, f"a multiple of {groups}")
        require(0 < self.top_groups <= groups, "top_groups", self.top_groups, f"in 1..{groups}")
        most = self.num_experts // groups * self.top_groups
        require(0 < self.top_k <= most, "top_k", self.top_k, f"in 1..{most}, the experts of the kept groups")


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One block: a token mixer, then a feed-forward, each behind an RMSNorm and beside a residual path."""

    mixer: GqaConfig | MlaConfig | LightningConfig
    mlp: DenseConfig | MoeConfig
    post_norms: bool = False
    """Whether an RMSNorm also follows each of the two, before it is added to the residual path."""
    residual: ResidualScales | None = None
    """None adds each of the two to what came into its norm."""

    def __post_init__(self) -> None:
        both = self.post_norms and self.residual is not None
        require(not both, "post_norms", self.post_norms, "False beside scaled residuals")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A decoder-only language model."""

    family: str
    """Name of the file in `mohist.model.families` that reads and writes it."""
    vocab_size: int
    hidden_size: int
    layers: tuple[LayerConfig, ...]
    mtp_layers: int = 0
    """Multi-token prediction modules after the last layer, each with a block like the last one."""
    norm_eps: float
    norm_shift: float = 0.0
    """Added to the weight of every norm, of heads too; Gemma's are stored less 1."""
    embed_scale: float = 1.0
    """Multiplies embeddings."""
    tie_embeddings: bool
    """Whether the output head is the embedding."""
    max_positions: int
    """Longest sequence that the model was made for, in tokens."""
    bos_token: int | None = None
    eos_tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "max_positions"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        require(len(self.layers) > 0, "number of layers", len(self.layers), "positive")
        require(self.norm_eps > 0, "norm_eps", self.norm_eps, "positive")

    @property
    def blocks(self) -> tuple[LayerConfig, ...]:
        """Every block that has weights and a cache: the layers, then those of the MTP modules."""
        return self.layers + (self.layers[-1],) * self.mtp_layers
