"""Plans: counted, and not far from what happens."""

from __future__ import annotations

import pytest

from mohist.cost import Prices
from mohist.model.count import flops_per_token, parameters
from mohist.train.plan import Plan, flops_per_second
from mohist.train.progress import TYPICAL_CONTEXT, duration
from tests.exact.models import CONFIGS

MODEL = CONFIGS["llama"]


def plan(**changes: bool) -> Plan:
    return Plan(
        model=MODEL,
        num_samples=10,
        steps=5,
        num_tokens=1000,
        max_tokens=200,
        recompute=changes.get("recompute", False),
        is_lora=changes.get("is_lora", False),
        passes=2.0 if changes.get("is_lora", False) else 3.0,
        prices=Prices(machine_per_hour=2.0),
    )


def test_work_is_counted_in_passes() -> None:
    once = 1000 * flops_per_token(MODEL, TYPICAL_CONTEXT)
    assert plan().flops == 3 * once
    assert plan(recompute=True).flops == 4 * once
    assert plan(is_lora=True).flops == 2 * once
    assert plan(is_lora=True, recompute=True).flops == 3 * once


def test_memory_is_weights_and_activations() -> None:
    weights = 20 * parameters(MODEL)
    assert weights < plan(recompute=True).memory_bytes < plan().memory_bytes
    assert plan(is_lora=True).memory_bytes == plan().memory_bytes - 12 * parameters(MODEL)


def test_for_people() -> None:
    text = plan().text(speed=1e9)
    assert "10 samples; 1,000 tokens in 5 steps" in text
    assert "at half of this machine's 1 GFLOP/s" in text
    assert f"cost      about {2 * plan().flops / 5e8 / 3600:.3g} USD" in text


def test_the_machine_is_measured() -> None:
    assert 1e8 < flops_per_second(1) < 1e13


@pytest.mark.parametrize(("seconds", "text"), [(59.4, "59 s"), (187, "3:07"), (7387, "2:03:07")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
