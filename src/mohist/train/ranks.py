"""Several processes that share the work of a step: each takes some micro-batches, gradients are added up.

Under `torchrun` with PyTorch's gloo; `ALONE` is the usual single process. Every rank holds the whole model
and is given the same samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

__all__ = ["ALONE", "Ranks", "join_ranks"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among `size`."""

    rank: int = 0
    size: int = 1

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """The share of this rank."""
        return items[self.rank :: self.size]

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all ranks, in place. The same bits on every rank."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def gather(self, item: T) -> list[T]:
        """The items of all ranks, in their order."""
        if self.size == 1:
            return [item]
        items: list[T | None] = [None] * self.size
        dist.all_gather_object(items, item)
        return items  # ty: ignore[invalid-explicit-return]


ALONE = Ranks()


def join_ranks() -> Ranks:
    """The ranks that `torchrun` started, or `ALONE`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    dist.init_process_group("gloo")
    return Ranks(rank=dist.get_rank(), size=dist.get_world_size())
