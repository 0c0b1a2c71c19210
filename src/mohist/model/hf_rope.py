"""Rope in configs of Hugging Face, in its old and its new spelling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mohist.errors import ModelError
from mohist.model.fields import Fields
from mohist.model.rope_config import (
    LinearScaling,
    Llama3Scaling,
    QueryGrowth,
    RopeConfig,
    TableScaling,
    YarnScaling,
)

__all__ = ["rope_from_hf", "rope_in_section", "rope_section", "rope_to_hf"]


def rope_from_hf(
    fields: Fields,
    *,
    head_dim: int,
    max_positions: int,
    interleaved: bool = False,
    theta: float = 10_000.0,
    share: float = 1.0,
    grows: bool = False,
) -> RopeConfig:
    """Rope from `rope_parameters` (transformers 5), or from `rope_theta` and `rope_scaling` (before).

    `theta` and `share` (of a head's entries that are rotated) are used where the config has none; `grows`
    says that the family reads Llama 4's scale of queries.
    """
    theta = fields.number("rope_theta", theta)
    share = fields.number("partial_rotary_factor", share)
    section, old = fields.section("rope_parameters"), fields.section("rope_scaling")
    return rope_in_section(
        section or old,
        head_dim=head_dim,
        max_positions=max_positions,
        interleaved=interleaved,
        theta=theta,
        share=share,
        grows=grows,
    )


def rope_in_section(
    section: Fields | None,
    *,
    head_dim: int,
    max_positions: int,
    interleaved: bool = False,
    theta: float,
    share: float = 1.0,
    grows: bool = False,
) -> RopeConfig:
    """Rope from an object of `rope_parameters`; None leaves all as it is given (see `rope_from_hf`)."""
    scaling, growth = None, None
    if section is not None:
        theta = section.number("rope_theta", theta)
        share = section.number("partial_rotary_factor", share)
        scaling = _scaling_from_hf(section, max_positions)
        if grows:
            growth = _growth_from_hf(section)
            section.skip("max_position_embeddings")
        section.close()
    return RopeConfig(
        dim=int(head_dim * share),
        theta=theta,
        interleaved=interleaved,
        scaling=scaling,
        query_growth=growth,
    )


def _scaling_from_hf(
    section: Fields, max_positions: int
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
    kind = section.text("rope_type", None) or section.text("type", "default")
    section.skip("type")
    if kind == "default":
        return None
    factor = section.number("factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    original = section.integer("original_max_position_embeddings", max_positions)
    if kind == "llama3":
        return Llama3Scaling(
            factor=factor,
            low_frequency_factor=section.number("low_freq_factor"),
            high_frequency_factor=section.number("high_freq_factor"),
            original_positions=original,
        )
    if kind == "yarn":
        return YarnScaling(
            factor=factor,
            original_positions=original,
            beta_fast=section.number("beta_fast", 32.0),
            beta_slow=section.number("beta_slow", 1.0),
            truncate=section.flag("truncate", True),
            attention_factor=section.number("attention_factor", None),
            mscale=section.number("mscale", None),
            mscale_all_dim=section.number("mscale_all_dim", None),
        )
    raise section.error("rope_type", "'default', 'linear', 'llama3' or 'yarn'")


def _growth_from_hf(section: Fields) -> QueryGrowth | None:
    beta = section.number("llama_4_scaling_beta", None)
    if beta is None:
        return None
    return QueryGrowth(beta=beta, period=section.integer("original_max_position_embeddings"))


def rope_section(rope: RopeConfig) -> dict[str, Any]:
    """An object of `rope_parameters`, but for shares of a head and growth of queries."""
    return {"rope_type": "default", "rope_theta": rope.theta, **(_scaling_to_hf(rope) or {})}


def rope_to_hf(rope: RopeConfig, *, head_dim: int) -> dict[str, Any]:
    """Rope in both spellings: transformers before version 5 reads only the old one."""
    scaling, growth = _scaling_to_hf(rope), rope.query_growth
    share = {} if rope.dim == head_dim else {"partial_rotary_factor": rope.dim / head_dim}
    if growth is not None:
        grown = {"llama_4_scaling_beta": growth.beta, "original_max_position_embeddings": growth.period}
        scaling = (scaling or {"rope_type": "default"}) | grown
    new = {"rope_type": "default", "rope_theta": rope.theta, **share, **(scaling or {})}
    return {"rope_theta": rope.theta, "rope_scaling": scaling, "rope_parameters": new, **share}


def _scaling_to_hf(rope: RopeConfig) -> dict[str, Any] | None:
    match rope.scaling:
        case None:
            return None
        case LinearScaling(factor=factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling() as scaling:
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
        case YarnScaling() as scaling:
            values: Mapping[str, Any] = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_positions,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "truncate": None if scaling.truncate else False,
                "attention_factor": scaling.attention_factor,
                "mscale": scaling.mscale,
                "mscale_all_dim": scaling.mscale_all_dim,
            }
            return {key: value for key, value in values.items() if value is not None}
        case TableScaling():
            raise ModelError(
                "rope scaling = a table of divisors, as read from a GGUF file: Hugging Face's config has no "
                "field for it; save a model that was loaded from a Hugging Face folder"
            )
