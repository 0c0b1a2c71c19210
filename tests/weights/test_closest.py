"""Scales that are searched for: never further from the values than ggml's, and close to values on a grid."""

from __future__ import annotations

import pytest
import torch

from mohist.errors import WeightsError
from mohist.weights.closest import closest_q8_0
from mohist.weights.formats import Format
from mohist.weights.quants import dequantize, quantize
from tests.weights.test_quants import awkward_values


def errors(values: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Squared error of every block."""
    return (back - values).view(-1, 32).square().sum(dim=1)


def compared(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors of the searched scales and of ggml's."""
    found, plain = closest_q8_0(values), quantize(values, Format.Q8_0)
    assert found.info == plain.info
    return errors(values, dequantize(found)), errors(values, dequantize(plain))


def test_no_block_is_further_from_its_values() -> None:
    found, plain = compared(awkward_values(200, 160))
    assert (found <= plain).all()


def test_normal_values_come_closer() -> None:
    found, plain = compared(torch.randn(64, 512, generator=torch.Generator().manual_seed(1)))
    assert found.sum() < 0.8 * plain.sum()


@pytest.mark.parametrize(("format", "share"), [(Format.Q4_0, 0.01), (Format.Q4_1, 0.2)])
def test_values_on_a_grid_come_much_closer(format: Format, share: float) -> None:
    normal = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    found, plain = compared(dequantize(quantize(normal, format)))
    assert found.sum() < share * plain.sum()


def test_multiples_of_a_scale_are_kept() -> None:
    generator = torch.Generator().manual_seed(1)
    quants = torch.randint(-127, 128, (8, 64), generator=generator)
    quants[:, ::32] = torch.randint(64, 128, (8, 2), generator=generator)
    values = quants.float() * 2.0**-7
    found, _ = compared(values)
    assert not found.any()


def test_what_has_no_finite_scale_is_refused() -> None:
    values = torch.full((1, 32), float("nan"))
    with pytest.raises(WeightsError, match=r"'layer\.w' to q8_0"):
        closest_q8_0(values, "layer.w")
