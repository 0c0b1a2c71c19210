"""Rotary frequencies against transformers, and against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mohist.errors import ModelError
from mohist.model.config import MlaConfig
from mohist.model.rope import cos_sin_scale, inverse_frequencies, mla_softmax_scale
from mohist.model.rope_config import LinearScaling, Llama3Scaling, RopeConfig, TableScaling, YarnScaling

V3_YARN = YarnScaling(factor=40.0, original_positions=4096, mscale=1.0, mscale_all_dim=1.0)


def theirs(rope: RopeConfig, parameters: dict[str, Any]) -> tuple[torch.Tensor, float]:
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_theta": rope.theta, **parameters}
    config = transformers.LlamaConfig(
        head_dim=rope.dim, max_position_embeddings=8192, rope_parameters=parameters
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("scaling", "parameters"),
    [
        (LinearScaling(factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (
            Llama3Scaling(
                factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=8192
            ),
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
        (
            YarnScaling(factor=4.0, original_positions=32768),
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
        (
            YarnScaling(factor=40.0, original_positions=4096, mscale=0.707, mscale_all_dim=0.9),
            {
                "rope_type": "yarn",
                "factor": 40.0,
                "original_max_position_embeddings": 4096,
                "mscale": 0.707,
                "mscale_all_dim": 0.9,
            },
        ),
        (
            YarnScaling(factor=32.0, original_positions=4096, truncate=False, attention_factor=1.5),
            {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "truncate": False,
                "attention_factor": 1.5,
            },
        ),
    ],
)
@pytest.mark.parametrize("theta", [10_000.0, 150_000.0])
@pytest.mark.parametrize("dim", [32, 64, 128])
def test_scalings_are_those_of_transformers(
    scaling: Any, parameters: dict[str, Any], theta: float, dim: int
) -> None:
    rope = RopeConfig(dim=dim, theta=theta, scaling=scaling)
    expected, scale = theirs(rope, parameters)
    torch.testing.assert_close(torch.tensor(inverse_frequencies(rope)), expected, rtol=2e-6, atol=0)
    assert cos_sin_scale(rope) == pytest.approx(scale, rel=1e-12)


def test_plain_frequencies() -> None:
    frequencies = inverse_frequencies(RopeConfig(dim=8, theta=10_000.0))
    assert frequencies == pytest.approx([1.0, 0.1, 0.01, 0.001], rel=1e-15)


def test_table_divides_pair_by_pair() -> None:
    rope = RopeConfig(dim=4, theta=100.0, scaling=TableScaling(divisors=(1.0, 8.0)))
    assert inverse_frequencies(rope) == pytest.approx([1.0, 0.1 / 8])
    with pytest.raises(ModelError, match="number of rope divisors = 1: it must be 2"):
        RopeConfig(dim=4, scaling=TableScaling(divisors=(1.0,)))


def test_deepseek_v3_scales() -> None:
    """m = 1.36889 and m squared = 1.87385 enter the softmax; cos and sin keep their size."""
    rope = RopeConfig(dim=64, interleaved=True, scaling=V3_YARN)
    mixer = MlaConfig(num_heads=128, q_rank=1536, kv_rank=512, nope_dim=128, rope=rope, value_dim=128)
    assert cos_sin_scale(rope) == 1.0
    assert mla_softmax_scale(mixer) * 192**0.5 == pytest.approx(1.87385, abs=5e-6)
    assert mla_softmax_scale(replace(mixer, rope=RopeConfig(dim=64))) == pytest.approx(192**-0.5)


def test_deepseek_v3_ramp() -> None:
    """At V3's numbers pairs 0..10 keep their frequency, and 23..31 are divided by 40."""
    scaled = inverse_frequencies(RopeConfig(dim=64, scaling=V3_YARN))
    plain = inverse_frequencies(RopeConfig(dim=64))
    ratios = [a / b for a, b in zip(plain, scaled, strict=True)]
    assert ratios[:11] == [1.0] * 11
    assert all(1 < ratio < 40 for ratio in ratios[11:23])
    assert ratios[23:] == pytest.approx([40.0] * 9)
