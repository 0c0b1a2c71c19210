"""Buffers that are used again."""

from __future__ import annotations

import threading

import pytest
import torch

from mohist.kernels.memory import Recycler

MB = 1 << 20
NUMBERS = MB // 4
"""float32 numbers in a megabyte."""


def test_what_is_gone_is_used_again() -> None:
    recycler = Recycler()
    first = recycler.empty(8, NUMBERS)
    place = first.data_ptr()
    part = first[3]
    del first
    assert recycler.empty(8, NUMBERS).data_ptr() != place, "a view of it is alive"
    del part
    held = recycler.held_bytes()
    places = {recycler.empty(size, NUMBERS).data_ptr() for size in (8, 7, 5)}
    assert place in places
    assert recycler.held_bytes() == held


def test_buffers_in_use_are_apart() -> None:
    recycler = Recycler()
    tensors = [recycler.empty(1 + i % 5, NUMBERS).fill_(i) for i in range(20)]
    del tensors[::3]
    tensors += [recycler.empty(1 + i % 5, NUMBERS).fill_(100 + i) for i in range(20)]
    values = [tensor.unique().tolist() for tensor in tensors]
    assert all(len(value) == 1 for value in values)
    assert len({value[0] for value in values}) == len(tensors)


def test_no_more_is_held_than_half_again_of_what_was_used() -> None:
    recycler = Recycler()
    for size in (2, 30, 4, 26, 8, 22, 12, 18):  # none fits where another was
        assert recycler.empty(size, NUMBERS).shape == (size, NUMBERS)
        assert recycler.held_bytes() <= 45 * MB


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bfloat16])
def test_shapes_and_types(dtype: torch.dtype) -> None:
    recycler = Recycler()
    for shape in ((2, 3, NUMBERS), (3, 5), (0, 7), ()):
        tensor = recycler.empty(*shape, dtype=dtype)
        assert tensor.shape == shape
        assert tensor.dtype == dtype
        assert tensor.is_contiguous()


def test_threads_share_it() -> None:
    recycler, wrong = Recycler(), list[int]()

    def work(mark: int) -> None:
        for _ in range(200):
            tensor = recycler.empty(2, NUMBERS)
            tensor[:, ::1024] = mark
            if not bool((tensor[:, ::1024] == mark).all()):
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
