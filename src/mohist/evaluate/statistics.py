"""What a finite number of answers says about a model: estimates, intervals and paired tests.

Everything here is deterministic; the bootstrap draws its resamples from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Interval", "bootstrap", "mean", "pass_at_k", "sign_test", "wilson"]

NORMAL_95 = 1.959963984540054
"""Standard deviations of a normal distribution around its mean that hold 95 % of it."""
RESAMPLE_BLOCK = 256
"""Bootstrap resamples that exist at one time."""


class Interval(NamedTuple):
    """The two ends of a 95 % confidence interval."""

    low: float
    high: float


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, its sum rounded once."""
    assert values, "the mean of nothing"
    return math.fsum(values) / len(values)


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The probability that at least one of k answers is right, estimated from `num_right` of `num_samples`.

    1 - C(n - c, k) / C(n, k): unbiased, since every k of the n samples are equally likely
    (Chen et al., arXiv 2107.03374, equation 1).
    """
    assert 0 <= num_right <= num_samples, (num_right, num_samples)
    assert 1 <= k <= num_samples, (k, num_samples)
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def wilson(num_right: int, num: int) -> Interval:
    """The score interval of a proportion (Wilson, JASA 22, 1927); it stays within 0 and 1."""
    assert 0 <= num_right <= num, (num_right, num)
    assert num > 0, "a proportion of nothing"
    z2 = NORMAL_95**2
    share = num_right / num
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / num + z2 / (4 * num * num)) / (1 + z2 / num)
    # At the ends the two terms are equal, and their difference is rounding.
    low = 0.0 if num_right == 0 else max(0.0, centre - half)
    return Interval(low, 1.0 if num_right == num else min(1.0, centre + half))


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = 2000) -> Interval:
    """The percentile bootstrap of a mean: `values` are one number a problem, and problems are redrawn.

    Samples of one problem are not independent of each other, so their mean is the value to pass.
    """
    assert values, "the bootstrap of nothing"
    values_N = np.asarray(values, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(seed))
    means: list[float] = []
    for first in range(0, resamples, RESAMPLE_BLOCK):
        count = min(RESAMPLE_BLOCK, resamples - first)
        drawn_RN = generator.integers(0, len(values_N), size=(count, len(values_N)))
        means += values_N[drawn_RN].mean(axis=1).tolist()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(low), float(high))


def sign_test(num_better: int, num_worse: int) -> float:
    """The two-sided p-value that so uneven a split comes from a fair coin.

    For two models that answered the same problems, count those that only one of them got right: this is
    McNemar's exact test (Psychometrika 12, 1947). Problems on which they do equally well say nothing.
    """
    assert num_better >= 0, num_better
    assert num_worse >= 0, num_worse
    num = num_better + num_worse
    tail = sum(math.comb(num, i) for i in range(min(num_better, num_worse) + 1))
    return min(1.0, 2 * tail / 2**num)
