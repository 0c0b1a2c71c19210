"""Rotary frequencies, to the last bit the same on every machine.

The formulas are those of transformers' `modeling_rope_utils`; they are evaluated in decimal arithmetic of 50
digits, since `pow` and `log` of C libraries differ in their last bits, and rounded once.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext

from mohist.model.config import LightningConfig, MlaConfig
from mohist.model.rope_config import (
    LinearScaling,
    Llama3Scaling,
    QueryGrowth,
    RopeConfig,
    TableScaling,
    YarnScaling,
)

__all__ = [
    "cos_sin_scale",
    "inverse_frequencies",
    "lightning_decays",
    "mla_softmax_scale",
    "query_scales",
]

_CONTEXT = Context(prec=50)
_PI = Decimal("3.1415926535897932384626433832795028841971693993751058")


def inverse_frequencies(rope: RopeConfig) -> tuple[float, ...]:
    """Radians that each of the dim/2 pairs turns per position."""
    with localcontext(_CONTEXT):
        plain = [Decimal(rope.theta) ** (Decimal(-2 * i) / rope.dim) for i in range(rope.dim // 2)]
        match rope.scaling:
            case None:
                scaled = plain
            case LinearScaling(factor=factor):
                scaled = [frequency / Decimal(factor) for frequency in plain]
            case TableScaling(divisors=divisors):
                scaled = [frequency / Decimal(by) for frequency, by in zip(plain, divisors, strict=True)]
            case Llama3Scaling() as scaling:
                scaled = [_llama3(frequency, scaling) for frequency in plain]
            case YarnScaling() as scaling:
                scaled = _yarn(plain, rope, scaling)
        return tuple(float(frequency) for frequency in scaled)


def cos_sin_scale(rope: RopeConfig) -> float:
    """What cos and sin are multiplied by: 1, except for YaRN."""
    scaling = rope.scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return float(
            _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)
        )
    return float(_mscale(scaling.factor, 1.0))


def query_scales(rope: RopeConfig, growth: QueryGrowth, max_positions: int) -> tuple[float, ...]:
    """What cos and sin of queries are multiplied by in each `growth.period` of positions."""
    steps = range(-(-max_positions // growth.period))
    with localcontext(_CONTEXT):
        scale, beta = Decimal(cos_sin_scale(rope)), Decimal(growth.beta)
        return tuple(float(scale * (1 + beta * Decimal(1 + step).ln())) for step in steps)


def lightning_decays(mixer: LightningConfig) -> tuple[float, ...]:
    """What the state of each head keeps of itself from one position to the next (see `LightningConfig`)."""
    with localcontext(_CONTEXT):
        exponents = (Decimal(-8 * head) / mixer.num_heads for head in range(1, mixer.num_heads + 1))
        slopes = [Decimal(mixer.slope_scale) * Decimal(2) ** exponent for exponent in exponents]
        return tuple(float((-slope).exp()) for slope in slopes)


def mla_softmax_scale(mixer: MlaConfig) -> float:
    """1 / sqrt(query width), times m squared where YaRN has `mscale_all_dim` (DeepSeek)."""
    scale, scaling = 1 / math.sqrt(mixer.nope_dim + mixer.rope_dim), mixer.rope.scaling
    if isinstance(scaling, YarnScaling) and scaling.mscale_all_dim:
        scale *= float(_mscale(scaling.factor, scaling.mscale_all_dim) ** 2)
    return scale


def _mscale(factor: float, mscale: float) -> Decimal:
    """0.1 mscale ln(factor) + 1 (YaRN, equation 22)."""
    if factor <= 1:
        return Decimal(1)
    with localcontext(_CONTEXT):
        return Decimal("0.1") * Decimal(mscale) * Decimal(factor).ln() + 1


def _llama3(frequency: Decimal, scaling: Llama3Scaling) -> Decimal:
    low, high = Decimal(scaling.low_frequency_factor), Decimal(scaling.high_frequency_factor)
    turns = scaling.original_positions * frequency / (2 * _PI)
    kept = min(max((turns - low) / (high - low), Decimal(0)), Decimal(1))
    return (1 - kept) * frequency / Decimal(scaling.factor) + kept * frequency


def _yarn(plain: list[Decimal], rope: RopeConfig, scaling: YarnScaling) -> list[Decimal]:
    low, high = (
        _pair_turning(scaling.beta_fast, rope, scaling),
        _pair_turning(scaling.beta_slow, rope, scaling),
    )
    if scaling.truncate:
        low, high = Decimal(math.floor(low)), Decimal(math.ceil(high))
    low, high = max(low, Decimal(0)), min(high, Decimal(rope.dim - 1))
    if low == high:
        high += Decimal("0.001")
    scaled = []
    for i, frequency in enumerate(plain):
        divided = min(max((i - low) / (high - low), Decimal(0)), Decimal(1))
        scaled.append(frequency / Decimal(scaling.factor) * divided + frequency * (1 - divided))
    return scaled


def _pair_turning(times: float, rope: RopeConfig, scaling: YarnScaling) -> Decimal:
    """The (fractional) pair that turns so many times within the original positions."""
    wavelength = scaling.original_positions / (Decimal(times) * 2 * _PI)
    return rope.dim * wavelength.ln() / (2 * Decimal(rope.theta).ln())
