"""Where keys and values live is an argument of the forward pass. For training: nowhere but in this one pass.

Shape suffixes: T packed rows, N query heads, G key/value heads, H key dim, V value dim, S sequences,
B blocks, U packed rows with copies.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mohist.kernels.ops import (
    AttentionSpec,
    CacheSpec,
    IndexSpec,
    KvCache,
    LightningSpec,
    Ops,
    RowPlan,
    StateCache,
    new_cache,
)

__all__ = ["Attend", "PackedAttend"]

_BLOCK_SIZE = 32
"""Tokens a block; a sequence's last block is on average half empty."""


class Attend(ABC):
    """Stores the rows' keys and values where they belong, then lets every row attend to its sequence."""

    def __init__(self, ops: Ops, rows: RowPlan) -> None:
        self._ops, self.rows = ops, rows

    def __call__(
        self,
        spec: AttentionSpec,
        q_TNH: Tensor,
        k_TGH: Tensor,
        v_TGV: Tensor | None,
        /,
        *,
        sinks_N: Tensor | None = None,
        chosen_TK: Tensor | None = None,
    ) -> Tensor:
        """Attended values [T, N, V]; v is None where the value is part of the key (see `AttentionSpec`)."""
        cache = self._stored(spec, k_TGH, v_TGV)
        return self._ops.attention(q_TNH, cache, self.rows, spec, sinks_N=sinks_N, chosen_TK=chosen_TK)

    def select(self, spec: IndexSpec, q_TIJ: Tensor, weights_TI: Tensor, k_T1J: Tensor, /) -> Tensor:
        """Stores the rows' index keys; returns the positions that each attends to (see `Ops.select`)."""
        return self._ops.select(q_TIJ, weights_TI, self._stored(spec, k_T1J, None), self.rows, spec.top_k)

    def lightning(
        self, spec: LightningSpec, q_TNH: Tensor, k_TNH: Tensor, v_TNV: Tensor, decays_N: Tensor, /
    ) -> Tensor:
        """What linear attention reads, [T, N, V], from the states of the rows' sequences."""
        return self._ops.lightning(q_TNH, k_TNH, v_TNV, self._states(spec), self.rows, decays_N)

    @abstractmethod
    def _cache(self, spec: CacheSpec) -> KvCache | StateCache:
        """Where a layer keeps what later rows need."""

    def _store(self, cache: KvCache, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        self._ops.store(cache, self.rows, k_TGH, v_TGV)

    def _stored(self, spec: AttentionSpec | IndexSpec, k_TGH: Tensor, v_TGV: Tensor | None) -> KvCache:
        """The layer's cache, the rows' keys and values among the others."""
        cache = self._cache(spec)
        assert isinstance(cache, KvCache), spec
        self._store(cache, k_TGH, v_TGV)
        return cache

    def _states(self, spec: LightningSpec) -> StateCache:
        cache = self._cache(spec)
        assert isinstance(cache, StateCache), spec
        return cache


class PackedAttend(Attend):
    """Sequences one after another, for training and scoring: each row sees its own sequence so far.

    A sequence may continue an earlier one, as answers of a group continue their prompt: it begins with all
    rows of that one, which are computed once, and has rows of its own for the rest. Full blocks of the
    earlier one are shared, its last block is copied, so gradients of all that continue it meet in its rows.
    """

    def __init__(
        self, lengths: Sequence[int], ops: Ops, *, continues: Sequence[int | None] | None = None
    ) -> None:
        """Own rows of each sequence, and the index of the earlier one that it continues (None: no other).

        A sequence that continues another may have no rows of its own.
        """
        layout = _Layout()
        for length, parent in zip(lengths, continues or [None] * len(lengths), strict=True):
            layout.add(length, parent)
        width = max(len(table) for table in layout.tables)
        tables_SB = torch.tensor([table + [0] * (width - len(table)) for table in layout.tables])

        def plan(rows: list[_Row]) -> RowPlan:
            positions_T, sequence_T = torch.tensor([(row.position, row.sequence) for row in rows]).T.int()
            return RowPlan(
                positions_T.contiguous().to(ops.device),
                sequence_T.contiguous().to(ops.device),
                tables_SB.int().to(ops.device),
            )

        super().__init__(ops, plan(layout.rows))
        self._num_blocks = layout.num_blocks
        self._copies: RowPlan | None = None
        if layout.copies:
            self._copies = plan(layout.copies)
            self._copied_T = torch.tensor([row.source for row in layout.copies], device=ops.device)
            # rows and copies by sequence and position; where each comes from, and where the own ones are
            every = sorted(layout.rows + layout.copies)
            self._with_copies = plan(every)
            self._source_U = torch.tensor([row.source for row in every], device=ops.device)
            own = set(layout.rows)
            own_U = [i for i, row in enumerate(every) if row in own]
            self._own_T = torch.tensor(own_U, device=ops.device)
        self._scratch: dict[CacheSpec, KvCache | StateCache] = {}

    @property
    def positions_T(self) -> Tensor:
        """int32 [T]: the position of every row, for the decoder's rope."""
        return self.rows.positions_T

    def _store(self, cache: KvCache, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        super()._store(cache, k_TGH, v_TGV)
        if self._copies is not None:
            values = None if v_TGV is None else v_TGV.index_select(0, self._copied_T)
            self._ops.store(cache, self._copies, k_TGH.index_select(0, self._copied_T), values)

    def lightning(
        self, spec: LightningSpec, q_TNH: Tensor, k_TNH: Tensor, v_TNV: Tensor, decays_N: Tensor, /
    ) -> Tensor:
        """See `Attend`. A sequence that continues another computes its copied rows anew, for their states."""
        if self._copies is None:
            return super().lightning(spec, q_TNH, k_TNH, v_TNV, decays_N)
        every = (x.contiguous().index_select(0, self._source_U) for x in (q_TNH, k_TNH, v_TNV))
        out_UNV = self._ops.lightning(*every, self._states(spec), self._with_copies, decays_N)
        return out_UNV.index_select(0, self._own_T)

    def _cache(self, spec: CacheSpec) -> KvCache | StateCache:
        """Fresh when gradients are recorded, since they read it later; else shared by layers of one shape."""
        shape = dataclasses.replace(spec, layer=0)
        cache = None if torch.is_grad_enabled() else self._scratch.get(shape)
        if cache is None:
            cache = new_cache(
                spec,
                num_blocks=self._num_blocks,
                block_size=_BLOCK_SIZE,
                device=self._ops.device,
                brief=True,
            )
            if not torch.is_grad_enabled():
                self._scratch[shape] = cache
        return cache


class _Row(NamedTuple):
    """A place in the cache: `position` of `sequence`, whose key and value come from packed row `source`."""

    sequence: int
    position: int
    source: int


class _Layout:
    """Hands out blocks and rows to one sequence after another."""

    def __init__(self) -> None:
        self.num_blocks = 0
        self.rows: list[_Row] = []
        self.copies: list[_Row] = []
        self.tables: list[list[int]] = []
        self._ends: list[int] = []
        """Positions of each sequence, with those that it continues."""
        self._tails: list[list[int]] = []
        """The packed rows behind the last, partly filled block of each sequence."""

    def add(self, length: int, parent: int | None) -> None:
        """A sequence of `length` rows of its own."""
        sequence = len(self.tables)
        assert length > 0 or parent is not None, f"sequence {sequence} is empty"
        assert parent is None or parent < sequence, f"sequence {sequence} continues a later one, {parent}"
        start, tail, shared = 0, list[int](), list[int]()
        if parent is not None:
            start, tail = self._ends[parent], self._tails[parent]
            shared = self.tables[parent][: start // _BLOCK_SIZE]
        end = start + length
        if length:
            self.copies += (_Row(sequence, start - len(tail) + i, row) for i, row in enumerate(tail))
        own = range(len(self.rows), len(self.rows) + length)
        self.rows += (_Row(sequence, start + i, row) for i, row in enumerate(own))
        needed = -(-end // _BLOCK_SIZE) - len(shared)
        self.tables.append(shared + list(range(self.num_blocks, self.num_blocks + needed)))
        self.num_blocks += needed
        self._ends.append(end)
        rest = end % _BLOCK_SIZE
        self._tails.append([*tail, *own][-rest:] if rest else [])
