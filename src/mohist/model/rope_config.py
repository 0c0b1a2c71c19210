"""What a rotary position embedding is: plain frozen data, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mohist.model.checks import require

__all__ = [
    "LinearScaling",
    "Llama3Scaling",
    "QueryGrowth",
    "RopeConfig",
    "TableScaling",
    "YarnScaling",
]


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Position interpolation: every frequency divided by one factor."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, those between blended."""

    factor: float
    low_frequency_factor: float
    """Wavelengths over original_positions / this are long."""
    high_frequency_factor: float
    """Wavelengths under original_positions / this are short."""
    original_positions: int


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): a ramp over the rope pairs from kept to divided frequencies."""

    factor: float
    original_positions: int
    beta_fast: float = 32.0
    """Pairs that turn more often than this within `original_positions` keep their frequency."""
    beta_slow: float = 1.0
    """Pairs that turn less often than this are divided by `factor`."""
    truncate: bool = True
    """Whether the ends of the ramp are rounded outward to whole pairs."""
    attention_factor: float | None = None
    """Multiplies cos and sin; None derives it from `factor` and the two mscales."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """DeepSeek: enters the softmax scale, squared, instead of cos and sin."""


@dataclass(frozen=True, kw_only=True)
class TableScaling:
    """Divisors given one by one, as GGUF's `rope_freqs` tensor has them."""

    divisors: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class QueryGrowth:
    """Queries times 1 + beta ln(1 + floor(position / period)), so that far keys are not drowned (Llama 4)."""

    beta: float
    period: int
    """Tokens between one step of the scale and the next."""


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of the first `dim` entries of a head (for MLA: of its rope part)."""

    dim: int
    """Rotated entries: two a pair."""
    theta: float = 10_000.0
    interleaved: bool = False
    """Pairs are neighbours (2i, 2i+1) instead of halves (i, i + dim/2)."""
    scaling: LinearScaling | Llama3Scaling | YarnScaling | TableScaling | None = None
    query_growth: QueryGrowth | None = None
    """Scales what is rotated of a query; attention that has this must rotate the whole head."""

    def __post_init__(self) -> None:
        require(self.dim > 0 and self.dim % 2 == 0, "rope dim", self.dim, "a positive even number")
        require(self.theta > 1, "rope theta", self.theta, "a number over 1")
        if isinstance(self.scaling, TableScaling):
            count = len(self.scaling.divisors)
            require(count == self.dim // 2, "number of rope divisors", count, f"{self.dim // 2}, one a pair")
