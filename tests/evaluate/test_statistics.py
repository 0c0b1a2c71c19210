"""Estimates, intervals and tests against enumeration, published values and coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.evaluate.statistics import bootstrap, mean, pass_at_k, sign_test, wilson


@pytest.mark.parametrize("num_samples", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(num_samples: int) -> None:
    for num_right in range(num_samples + 1):
        for k in range(1, num_samples + 1):
            subsets = list(itertools.combinations(range(num_samples), k))
            share = sum(min(subset) < num_right for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_right, k) == pytest.approx(share, abs=1e-15)


def test_pass_at_k_of_large_counts_does_not_overflow() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4)
    assert pass_at_k(10_000, 0, 5_000) == 0
    assert pass_at_k(10_000, 10_000, 1) == 1


def test_wilson_agrees_with_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    for num_right, num, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]:
        assert wilson(num_right, num) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(num=st.integers(1, 2000), data=st.data())
def test_wilson_holds_the_share_and_mirrors(num: int, data: st.DataObject) -> None:
    num_right = data.draw(st.integers(0, num))
    low, high = wilson(num_right, num)
    assert 0 <= low <= num_right / num <= high <= 1
    assert wilson(num - num_right, num) == pytest.approx((1 - high, 1 - low))


def test_bootstrap_covers_the_mean_and_is_a_function_of_its_seed() -> None:
    generator = np.random.Generator(np.random.PCG64(1))
    covered = 0
    for seed in range(200):
        values = generator.random(60).tolist()
        low, high = bootstrap(values, seed=seed, resamples=300)
        covered += low <= 0.5 <= high
    assert 174 <= covered <= 199  # about 94 % of them
    assert bootstrap([0.0, 1.0, 1.0], seed=3) == bootstrap([0.0, 1.0, 1.0], seed=3)
    assert bootstrap([0.25] * 5) == (0.25, 0.25)


def test_sign_test_counts_coin_tosses() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(3, 3) == 1
    assert sign_test(0, 5) == 2 / 32
    assert sign_test(8, 1) == sign_test(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)


def test_mean_rounds_once() -> None:
    assert mean([0.1] * 10) == 0.1
    assert mean([1e16, 1.0, -1e16]) == pytest.approx(1 / 3)
    assert math.isclose(mean([1, 2]), 1.5)
