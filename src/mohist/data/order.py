"""Which items each step takes: a function of the seed and the step, with no generator to save.

Items are taken in whole passes, each shuffled anew. Shuffling sorts by a hash, so that the order is the same
on every machine and with every version of every library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["Order", "held_out", "items", "shuffled"]


class Order:
    """The items of every step, for items of given sizes (in tokens, or 1 each)."""

    def __init__(self, sizes: Sequence[int] | np.ndarray, *, per_step: int, seed: int) -> None:
        """A step takes items until their sizes reach `per_step`, and at least one."""
        assert len(sizes) > 0
        assert per_step > 0
        self._sizes, self._per_step, self._seed = np.asarray(sizes), per_step, seed

    def steps(self, start: int = 0) -> Iterator[list[int]]:
        """The items of step `start`, of the one after, and so on for ever."""
        step = 0
        chosen: list[int] = []
        size = 0
        for item in items(len(self._sizes), self._seed):
            chosen.append(item)
            size += int(self._sizes[item])
            if size >= self._per_step:
                if step >= start:
                    yield chosen
                step, chosen, size = step + 1, [], 0

    def num_steps(self, passes: float) -> int:
        """Steps that take about `passes` passes over all items; at least 1."""
        wanted = round(passes * len(self._sizes))
        taken = 0
        for step, chosen in enumerate(self.steps()):
            taken += len(chosen)
            if taken >= wanted:
                return step + 1
        raise AssertionError("steps never end")


def items(count: int, seed: int, start: int = 0) -> Iterator[int]:
    """All of 0..count-1 in one pass after the other, each shuffled anew, for ever; from the `start`-th on."""
    epoch, skipped = divmod(start, count)
    while True:
        yield from shuffled(count, seed, epoch)[skipped:].tolist()
        epoch, skipped = epoch + 1, 0


def shuffled(count: int, seed: int, epoch: int = 0) -> np.ndarray:
    """A permutation of 0..count-1 (int64) that depends on seed and epoch alone."""
    return np.argsort(_hashes(count, seed, epoch), kind="stable")


def held_out(count: int, share: float, seed: int) -> np.ndarray:
    """Which of `count` items (bool) are kept from training: about `share` of them, each by its own hash."""
    return (_hashes(count, seed, -1) >> np.uint64(11)) * 2.0**-53 < share


def _hashes(count: int, seed: int, epoch: int) -> np.ndarray:
    """A 64-bit hash of (seed, epoch, i) for each i: splitmix64 (Steele, Lea, Flood 2014) in three rounds."""
    mixed = _mix(np.array([seed % 2**64], dtype=np.uint64))
    mixed = _mix(mixed ^ np.array([epoch % 2**64], dtype=np.uint64))
    return _mix(mixed ^ np.arange(count, dtype=np.uint64))


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
