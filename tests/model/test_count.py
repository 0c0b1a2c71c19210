"""Counts of real models from their configs on the hub, checked against what their reports and files say."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mohist.cli.main import main
from mohist.kernels.twin import TorchOps
from mohist.model import count, family
from mohist.model.config import DecoderConfig, GqaConfig
from mohist.model.decoder import Decoder
from mohist.model.family import read_config
from mohist.model.rope_config import YarnScaling
from mohist.weights.checkpoint import Checkpoint
from tests.model.published import (
    DEEPSEEK_V2,
    DEEPSEEK_V2_LITE,
    DEEPSEEK_V3,
    PUBLISHED,
    QWEN25_05B,
    SMOLLM2,
    Part,
)


def config_of(values: dict[str, Any]) -> DecoderConfig:
    checkpoint = SimpleNamespace(kind="safetensors", config=values, tensors={})
    return read_config(cast(Checkpoint, checkpoint))


def billions(config: DecoderConfig, counted: int, parts: tuple[Part, ...]) -> float:
    """`counted`, which has embedding and head, with these of the parts instead."""
    table = config.vocab_size * config.hidden_size
    sizes = {"embedding": table, "head": 0 if config.tie_embeddings else table}
    without = counted - sum(sizes.values())
    return (without + sum((sizes | {"mtp": count.mtp_parameters(config)})[part] for part in parts)) / 1e9


def agrees(ours: float, printed: str) -> bool:
    """Whether billions round to a number such as 3.3B, or begin with its digits."""
    digits = len(printed[:-1].partition(".")[2])
    scaled = ours * {"M": 1e3, "B": 1.0, "T": 1e-3}[printed[-1]] * 10**digits
    return round(float(printed[:-1]) * 10**digits) in (math.floor(scaled), round(scaled))


def test_every_family_has_a_released_model() -> None:
    families = {config_of(published.config).family for published in PUBLISHED.values()}
    assert families == set(family.all_families())


@pytest.mark.parametrize("name", PUBLISHED)
def test_info_says_what_the_makers_say(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From config.json alone, by `mohist info`."""
    published = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(published.config))
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts, config = json.loads(capsys.readouterr().out), config_of(published.config)
    assert agrees(billions(config, facts["parameters"], published.total_with), published.total)
    if published.active is None:
        assert facts["active_parameters"] == facts["parameters"]
    else:
        active = billions(config, facts["active_parameters"], published.active_with)
        assert agrees(active, published.active)
    assert facts["cache_values_per_token"] == published.cache_values


def test_deepseek_v3_to_the_digit_that_is_published() -> None:
    """671.03B and 37.55B; the module for multi-token prediction adds 11.6B of its own."""
    config = config_of(DEEPSEEK_V3)
    assert round(count.parameters(config) / 1e9, 2) == 671.03
    assert round(count.active_parameters(config) / 1e9, 2) == 37.55
    assert round(count.mtp_parameters(config) / 1e9, 1) == 11.6
    assert count.mtp_parameters(config_of(DEEPSEEK_V2)) == 0


def test_deepseek_v3_config() -> None:
    config = config_of(DEEPSEEK_V3)
    rope = config.layers[0].mixer.rope
    assert rope is not None
    assert isinstance(rope.scaling, YarnScaling)
    assert (rope.dim, rope.interleaved, rope.scaling.factor) == (64, True, 40.0)
    assert [type(layer.mlp).__name__ for layer in config.layers[2:4]] == ["DenseConfig", "MoeConfig"]
    assert len(config.blocks) == 62


def test_bytes_and_flops() -> None:
    config = config_of(SMOLLM2)
    numbers = count.parameters(config)
    assert count.weight_bytes(config, "bf16") == 2 * numbers
    assert count.weight_bytes(config, "q4_1") == pytest.approx(numbers * 20 / 32)
    without = count.flops_per_token(config, 0)
    assert without == 2 * numbers
    assert count.flops_per_token(config, 100) - without == 30 * 100 * 4 * 9 * 64


def test_flops_of_windows_and_latents() -> None:
    config = config_of({**QWEN25_05B, "use_sliding_window": True, "sliding_window": 30})
    slow, fast = count.flops_per_token(config, 1000), count.flops_per_token(config, 30)
    assert slow - fast == 21 * 970 * 4 * 14 * 64
    lite = config_of(DEEPSEEK_V2_LITE)
    per_token = 27 * 2 * 16 * (2 * 512 + 64)
    assert count.flops_per_token(lite, 10) - count.flops_per_token(lite, 0) == 10 * per_token


@pytest.mark.parametrize(
    "values", [published.config for published in PUBLISHED.values()], ids=list(PUBLISHED)
)
@pytest.mark.parametrize("extras", [False, True])
def test_counts_are_those_of_the_decoder(values: dict[str, Any], extras: bool) -> None:
    """An empty decoder of the real size has every tensor's shape and no memory."""
    config = config_of(values)
    mixer = config.layers[0].mixer
    if extras and isinstance(mixer, GqaConfig):
        mixer = dataclasses.replace(mixer, qkv_bias=True, output_bias=True, qk_norm="head")
        layers = tuple(dataclasses.replace(layer, mixer=mixer) for layer in config.layers)
        config = dataclasses.replace(config, layers=layers, tie_embeddings=False)
    sizes = {"mtp": 0, "main": 0}
    for name, module in Decoder(config, TorchOps()).tensors().items():
        numbers = 1
        for size in module.shape:
            numbers *= size
        sizes["mtp" if name.startswith("mtp.") else "main"] += numbers
    assert sizes["main"] == count.parameters(config)
    assert sizes["mtp"] == count.mtp_parameters(config)
