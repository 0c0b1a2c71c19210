"""Memory from the system, page by page: zeroed, aligned, and only as much as is touched.

Decoding reads every weight once a token, so it runs at the pace of memory. Small pages cost a third of that:
the processor fetches ahead only within a page. Weights therefore lie side by side in large pages, where the
system has them. So do the results of operations on many rows, in buffers that are used again: the system
clears every page that it hands out, which takes as long as a good part of the operation itself.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque

import torch
from torch import Tensor

__all__ = ["Recycler", "SlabAllocator", "huge_pages", "recycled", "zero_pages"]

_LINE = 64
"""Bytes of a cache line; every tensor begins on one."""
_SLAB_BYTES = 32 << 20
_LARGE_PAGE = 2 << 20
_SMALL_BYTES = 1 << 20


def zero_pages(num_bytes: int) -> Tensor:
    """uint8 [num_bytes] of zeros in ordinary pages; a page takes memory when it is first written."""
    return torch.frombuffer(_private(max(1, num_bytes)), dtype=torch.uint8)[:num_bytes]


def _private(num_bytes: int) -> mmap.mmap:
    """Memory of this process alone: of what could be shared, Linux makes large pages only if told to."""
    return mmap.mmap(-1, num_bytes, access=mmap.ACCESS_COPY)


class SlabAllocator:
    """Hands out tensors from slabs of large pages. A slab is returned when its last tensor is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slab = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def empty(self, num_bytes: int) -> Tensor:
        """uint8 [num_bytes], on a cache line of its own."""
        with self._lock:
            if num_bytes > len(self._slab) - self._used:
                if num_bytes > _SLAB_BYTES // 4:
                    return _large(num_bytes)
                self._slab, self._used = _large(_SLAB_BYTES), 0
            start = self._used
            self._used += -(-num_bytes // _LINE) * _LINE
            return self._slab[start : start + num_bytes]


def _large(num_bytes: int) -> Tensor:
    return torch.frombuffer(_pages(max(1, num_bytes)), dtype=torch.uint8)[:num_bytes]


def _pages(num_bytes: int) -> mmap.mmap:
    memory = _private(num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


huge_pages = SlabAllocator()
"""For weights. One for the process, as memory itself is."""


class Recycler:
    """Hands out buffers in large pages and takes them back when their tensors are gone.

    Of what is free, the smallest buffer that is large enough is used again, unless more than half of it would
    be wasted. All in all it holds at most one and a half times what was ever in use at one time. Threads may
    share it.
    """

    def __init__(self, least_bytes: int = _SMALL_BYTES) -> None:
        """PyTorch's own memory serves tensors below `least_bytes`."""
        self._least_bytes = least_bytes
        self._lock = threading.Lock()
        self._free: list[mmap.mmap] = []
        self._returned: deque[mmap.mmap] = deque()
        """Filled without the lock: a tensor may go at any moment, in the middle of `_take` too."""
        self._held_bytes = self._used_bytes = self._most_used_bytes = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor with arbitrary contents."""
        count = math.prod(shape)
        if count * dtype.itemsize < self._least_bytes:
            return torch.empty(shape, dtype=dtype)
        buffer = self._take(count * dtype.itemsize)
        view = memoryview(buffer)
        weakref.finalize(view, self._returned.append, buffer).atexit = False
        # detached, so that autograd takes it for no view of something else, and follows writes in place
        return torch.frombuffer(view, dtype=dtype, count=count).view(shape).detach()

    def held_bytes(self) -> int:
        """Of all buffers, in use or free."""
        return self._held_bytes

    def _take(self, num_bytes: int) -> mmap.mmap:
        size = -(-num_bytes // _LARGE_PAGE) * _LARGE_PAGE
        with self._lock:
            while self._returned:
                self._free.append(self._returned.popleft())
                self._used_bytes -= len(self._free[-1])
            fitting = [buffer for buffer in self._free if size <= len(buffer) <= 2 * size]
            buffer = min(fitting, key=len, default=None) or self._make(size)
            self._free = [other for other in self._free if other is not buffer]
            self._used_bytes += len(buffer)
            self._most_used_bytes = max(self._most_used_bytes, self._used_bytes)
            return buffer

    def _make(self, size: int) -> mmap.mmap:
        most = 3 * max(self._most_used_bytes, self._used_bytes + size) // 2
        while self._free and self._held_bytes + size > most:
            oldest = self._free.pop(0)
            self._held_bytes -= len(oldest)
            oldest.close()
        self._held_bytes += size
        return _pages(size)


recycled = Recycler()
"""For results of operations. One for the process, as memory itself is."""
