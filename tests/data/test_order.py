"""The order of the data: a function of seed and step, the same everywhere and for ever."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mohist.data.order import Order, held_out, items, shuffled

GOLDEN = [2, 5, 8, 9, 1, 4, 6, 0, 3, 7]


def test_the_order_is_the_same_for_ever() -> None:
    assert shuffled(10, seed=1).tolist() == GOLDEN
    assert shuffled(10, seed=1, epoch=1).tolist() != GOLDEN
    assert shuffled(10, seed=2).tolist() != GOLDEN


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    per_step=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_steps_take_every_item_once_a_pass(sizes: list[int], per_step: int, seed: int) -> None:
    order = Order(sizes, per_step=per_step, seed=seed)
    steps = list(islice(order.steps(), 20))
    taken = [item for step in steps for item in step]
    for start in range(0, len(taken) - len(sizes) + 1, len(sizes)):
        assert sorted(taken[start : start + len(sizes)]) == list(range(len(sizes)))
    for step in steps:
        assert sum(sizes[item] for item in step) >= per_step
        assert sum(sizes[item] for item in step[:-1]) < per_step
    assert list(islice(order.steps(7), 13)) == steps[7:]


def test_passes_are_counted_in_steps() -> None:
    order = Order([1] * 10, per_step=4, seed=0)
    assert [order.num_steps(passes) for passes in (0.01, 0.4, 1, 2)] == [1, 1, 3, 5]


def test_about_the_share_is_held_out() -> None:
    kept = held_out(10_000, 0.1, seed=3)
    assert 900 < kept.sum() < 1100
    assert not held_out(100, 0.0, seed=3).any()
    assert np.array_equal(held_out(20_000, 0.1, seed=3)[:10_000], kept)


def test_items_go_on_from_anywhere() -> None:
    whole = list(islice(items(7, 3), 30))
    assert whole == [item for epoch in range(5) for item in shuffled(7, 3, epoch).tolist()][:30]
    for start in range(20):
        assert list(islice(items(7, 3, start), 10)) == whole[start : start + 10]
