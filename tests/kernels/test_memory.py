"""Large pages, and buffers that are used again."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest
import torch

from mohist.kernels.memory import Recycler, SlabAllocator

MB = 1 << 20
NUMBERS = MB // 4
"""float32 numbers in a megabyte."""


def mapping(address: int) -> set[str]:
    """Linux's flags of the pages around an address: `hg` asks for large ones, `sh` are shared."""
    for entry in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)[1:]:
        first, last = (int(end, 16) for end in entry.split()[0].split("-"))
        if first <= address < last:
            return set(entry.rpartition("VmFlags:")[2].split())
    raise AssertionError(f"nothing is mapped at {address:x}")


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_large_pages_are_asked_for_where_the_system_makes_them() -> None:
    weights, result = SlabAllocator().empty(3 * MB), Recycler().empty(3, NUMBERS)
    for tensor in (weights, result):
        flags = mapping(tensor.data_ptr() + 2 * MB)
        assert "hg" in flags or not Path("/sys/kernel/mm/transparent_hugepage").exists()
        assert "sh" not in flags, "shared memory has small pages by default"


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
