"""PyTorch's threads, where a result must not depend on their number."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

import torch

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """PyTorch on one thread, inside.

    Its long sums are split among threads, and where one thread's share ends, elements are computed without
    vectors, which may round otherwise.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
