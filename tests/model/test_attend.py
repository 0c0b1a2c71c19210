"""Sequences that continue others: what they share is computed once, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mohist.kernels import load_ops
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import AttentionSpec
from mohist.model.attend import PackedAttend

OPS = TrainingOps(load_ops(threads=1))
SPECS = {
    "grouped": AttentionSpec(layer=0, num_kv_heads=2, key_dim=8, value_dim=8, scale=0.4),
    "window": AttentionSpec(layer=0, num_kv_heads=2, key_dim=8, value_dim=8, scale=0.4, window=20),
    "latent": AttentionSpec(layer=0, num_kv_heads=1, key_dim=12, value_dim=8, latent=True, scale=0.4),
}

Tree = list[tuple[int, int | None]]
"""Own rows of each sequence, and which one it continues."""


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    tree: Tree = []
    for index in range(draw(st.integers(1, 6))):
        parent = draw(st.none() | st.integers(0, index - 1)) if index else None
        tree.append((draw(st.integers(parent is None, 70)), parent))
    return tree


def unfolded(tree: Tree) -> tuple[list[int], list[int], list[int]]:
    """(length of every sequence in full, packed row of each of its rows, where its own rows are now)."""
    rows: list[list[int]] = []
    lengths, sources, own = [], [], []
    count = 0
    for length, parent in tree:
        rows.append((rows[parent] if parent is not None else []) + list(range(count, count + length)))
        count += length
        if rows[-1]:
            lengths.append(len(rows[-1]))
            sources += rows[-1]
            own += range(len(sources) - length, len(sources))
    return lengths, sources, own


@pytest.mark.parametrize("name", SPECS)
@given(tree=trees())
@settings(max_examples=20)
def test_continuing_equals_repeating(name: str, tree: Tree) -> None:
    spec = SPECS[name]
    torch.manual_seed(0)
    lengths, sources, own = unfolded(tree)
    num_rows = sum(length for length, _ in tree)

    def rows(heads: int, dim: int) -> Tensor:
        return torch.randn(num_rows, heads, dim, requires_grad=True)

    q, k, v = rows(4, spec.key_dim), rows(spec.num_kv_heads, spec.key_dim), rows(spec.num_kv_heads, 8)
    inputs = (q, k) if spec.latent else (q, k, v)
    attend = PackedAttend([n for n, _ in tree], OPS, continues=[parent for _, parent in tree])
    assert attend.positions_T.tolist() == PackedAttend(lengths, OPS).positions_T[own].tolist()
    found = attend(spec, q, k, None if spec.latent else v)
    repeated = PackedAttend(lengths, OPS)(spec, q[sources], k[sources], None if spec.latent else v[sources])[
        own
    ]
    assert torch.equal(found, repeated)
    weight = torch.randn_like(found)
    for once, again in zip(
        torch.autograd.grad(found, inputs, weight), torch.autograd.grad(repeated, inputs, weight), strict=True
    ):
        torch.testing.assert_close(once, again, rtol=1e-5, atol=1e-5)


def test_a_sequence_needs_rows_or_a_beginning() -> None:
    with pytest.raises(AssertionError, match="sequence 1 is empty"):
        PackedAttend([3, 0], OPS)
    with pytest.raises(AssertionError, match="sequence 0 continues a later one"):
        PackedAttend([3, 2], OPS, continues=[1, None])
