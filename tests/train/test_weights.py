"""What a token counts: over the whole batch, whatever is done with it afterwards."""

from __future__ import annotations

import pytest

from mohist.errors import ConfigError
from mohist.train.weights import weigh
from mohist.types import Sample

SAMPLES = [
    Sample(tokens=(1, 2, 3), weights=(0.0, 1.0, 1.0)),
    Sample(tokens=(1, 2, 3, 4, 5), weights=(0.0, 0.0, 1.0, 1.0, 2.0)),
    Sample(tokens=(7, 8), weights=(9.0, 0.0)),
]


@pytest.mark.parametrize(
    ("how", "options", "expected"),
    [
        ("token", {}, [1 / 6, 1 / 6]),
        ("sample", {}, [1 / 6, 1 / 12]),
        ("group", {"groups": [5, 5, 9]}, [1 / 12, 1 / 12]),
        ("group", {"groups": [5, 6, 7]}, [1 / 6, 1 / 12]),
        ("constant", {"constant": 10.0}, [1 / 30, 1 / 30]),
    ],
)
def test_every_way_to_count(how: str, options: dict, expected: list[float]) -> None:
    first, second, third = weigh(SAMPLES, how, **options)  # ty: ignore[invalid-argument-type]
    assert first.weights == pytest.approx((0, expected[0], expected[0]))
    assert second.weights == pytest.approx((0, 0, expected[1], expected[1], 2 * expected[1]))
    assert third.weights[1] == 0
    assert first.tokens == SAMPLES[0].tokens


def test_means_add_up_to_one() -> None:
    for how in ("token", "sample", "group"):
        weighed = weigh(SAMPLES[:2], how, groups=[0, 1])
        assert sum(sum(sample.weights) for sample in weighed) == pytest.approx(1)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ConfigError, match="in no groups"):
        weigh(SAMPLES, "group")
    with pytest.raises(ConfigError, match="constant = None, not a positive number"):
        weigh(SAMPLES, "constant")
