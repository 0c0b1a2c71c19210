"""Memory from the system, page by page: zeroed, aligned, and only as much as is touched.

Decoding reads every weight once a token, so it runs at the pace of memory. Small pages cost a third of that:
the processor fetches ahead only within a page. Weights therefore lie side by side in large pages, where the
system has them.
"""

from __future__ import annotations

import mmap
import threading

import torch
from torch import Tensor

__all__ = ["SlabAllocator", "huge_pages", "zero_pages"]

_LINE = 64
"""Bytes of a cache line; every tensor begins on one."""
_SLAB_BYTES = 32 << 20


def zero_pages(num_bytes: int) -> Tensor:
    """uint8 [num_bytes] of zeros in ordinary pages; a page takes memory when it is first written."""
    return torch.frombuffer(mmap.mmap(-1, max(1, num_bytes)), dtype=torch.uint8)[:num_bytes]


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
    memory = mmap.mmap(-1, max(1, num_bytes))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)[:num_bytes]


huge_pages = SlabAllocator()
"""For weights. One for the process, as memory itself is."""
