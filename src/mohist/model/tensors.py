"""The tensors of a decoder as modules: empty when the decoder is built, filled by loading or initialising.

A module's path in the decoder is the name of its tensor, as in `layers.3.mixer.q`. Shape suffixes: see
`mohist.kernels.ops`; N, K are rows and columns of a matrix, R is a rank, G is how many matrices there are.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mohist.kernels.threads import one_thread
from mohist.kernels.weight import Factors, LowRankTerm, Weight

__all__ = ["FusedVector", "LowRank", "Matrix", "Vector", "packed_factors"]


class Matrix(nn.Module):
    """One matrix [N, K], or `num_groups` alike [G, N, K] (heads, experts), packed for the kernels.

    A trained one also holds `parameter`, float32 of that shape, or `low_rank`, and packs itself anew when an
    optimiser has changed that. A change that goes round PyTorch's version counter (through `.data`) is not
    seen. `terms` are the differences that adapters add to a frozen one, in the forward pass that comes.
    """

    def __init__(self, out_features: int, in_features: int, *, num_groups: int | None = None) -> None:
        super().__init__()
        self.shape = (
            (out_features, in_features) if num_groups is None else (num_groups, out_features, in_features)
        )
        self.register_parameter("parameter", None)
        self.low_rank: LowRank | None = None
        self.terms: tuple[LowRankTerm, ...] = ()
        self._packed: tuple[Weight, ...] = ()
        self._version = 0

    @property
    def num_groups(self) -> int:
        """Matrices held."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def fill(self, weights_G: Iterable[Weight]) -> None:
        """Hold these packed weights, frozen."""
        self._packed = tuple(weights_G)
        assert len(self._packed) == self.num_groups

    def train_from(self, matrix: Tensor) -> None:
        """Hold this float32 tensor of the module's shape, trainable."""
        assert tuple(matrix.shape) == self.shape, (matrix.shape, self.shape)
        self.parameter = nn.Parameter(matrix)
        self._packed = tuple(Weight.from_dense(part) for part in self._parts(matrix))
        self._version = self.parameter._version

    def adapt(self, low_rank: LowRank) -> None:
        """Add a trained product of two thin matrices to this one, which is frozen from now on."""
        assert self.num_groups == 1, "heads and experts are not adapted"
        assert low_rank.shape == self.shape, (low_rank.shape, self.shape)
        self._packed = (self.weight().with_source(None),)
        self.parameter, self.low_rank = None, low_rank

    def weights(self) -> tuple[Weight, ...]:
        """The packed matrices, up to date; their sources are set when gradients are being recorded."""
        if self.low_rank is not None:
            return (self._packed[0].with_terms((self.low_rank.term(),)),)
        if self.parameter is None:
            return (self._packed[0].with_terms(self.terms),) if self.terms else self._packed
        if self._version != self.parameter._version:
            for weight, part in zip(self._packed, self._parts(self.parameter.detach()), strict=True):
                weight.update(part)
            self._version = self.parameter._version
        if not torch.is_grad_enabled():
            return self._packed
        parts = self._parts(self.parameter)
        return tuple(weight.with_source(part) for weight, part in zip(self._packed, parts, strict=True))

    def weight(self) -> Weight:
        """The packed matrix, where there is one."""
        (weight,) = self.weights()
        return weight

    def is_bf16(self) -> bool:
        """Whether every value is a bfloat16, because it is stored as one."""
        trained = self.parameter is not None or self.low_rank is not None
        return not trained and all(weight.format == "bf16" for weight in self._packed)

    def dense(self) -> Tensor:
        """The values as float32 of the module's shape."""
        if self.parameter is not None:
            return self.parameter.detach()
        dense = torch.stack([weight.to_dense() for weight in self._packed]).view(self.shape)
        return dense if self.low_rank is None else self.low_rank.added_to(dense)

    def _parts(self, matrix: Tensor) -> tuple[Tensor, ...]:
        return matrix.unbind(0) if len(self.shape) == 3 else (matrix,)


class LowRank(nn.Module):
    """A trained difference scale * B A to a frozen matrix [N, K] (LoRA, arXiv 2106.09685, section 4.1).

    `Ops.linear` defines what it adds. A model that is served with the same adapter adds the same.
    """

    def __init__(self, a_RK: Tensor, b_NR: Tensor, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Parameter(a_RK), nn.Parameter(b_NR), scale
        self.shape = (len(b_NR), a_RK.shape[1])
        self._packed = packed_factors(a_RK, b_NR, scale)
        self._version = self._current_version

    def term(self) -> LowRankTerm:
        """The difference for all rows, up to date; gradients flow to it when they are being recorded."""
        a, b = self._packed
        if self._version != self._current_version:
            a.update(self.a.detach())
            b.update(self.b.detach() * self.scale)
            self._version = self._current_version
        factors = Factors(self.a, self.b, self.scale) if torch.is_grad_enabled() else None
        return LowRankTerm(a, b, factors=factors)

    def added_to(self, matrix_NK: Tensor) -> Tensor:
        """The matrix with the difference merged in: close to what `term` does, not equal."""
        with torch.no_grad(), one_thread():
            return torch.addmm(matrix_NK, self.b, self.a, alpha=self.scale)

    @property
    def _current_version(self) -> int:
        """Grows whenever one of the two changes."""
        return self.a._version + self.b._version


def packed_factors(a_RK: Tensor, b_NR: Tensor, scale: float) -> tuple[Weight, Weight]:
    """A and scale * B as `LowRankTerm` wants them."""
    return Weight.from_dense(a_RK.detach()), Weight.from_dense(b_NR.detach() * scale)


class Vector(nn.Module):
    """A norm's weight, a bias: float32 [N], or [G, N] for one of each expert; empty until filled."""

    def __init__(self, *shape: int, trainable: bool = True) -> None:
        super().__init__()
        self.shape = shape
        self.trainable = trainable
        self.value = nn.Parameter(torch.empty(0), requires_grad=False)

    def fill(self, vector: Tensor, *, trainable: bool = False) -> None:
        """Hold this float32 vector; frozen, unless asked for and made for training."""
        assert tuple(vector.shape) == self.shape, (vector.shape, self.shape)
        self.value = nn.Parameter(vector, requires_grad=trainable and self.trainable)


class FusedVector:
    """Vectors side by side, as one fused projection adds them; put together again when one has changed."""

    def __init__(self, *vectors: Vector) -> None:
        self._vectors = vectors
        self._parts: list[Tensor] = []
        self._versions: list[int] = []
        self._fused = torch.empty(0)

    def value(self) -> Tensor:
        """The vectors in a row, [sum of N]."""
        parts: list[Tensor] = [vector.value for vector in self._vectors]
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
            return torch.cat(parts)
        versions = [part._version for part in parts]
        same = len(parts) == len(self._parts) and all(map(operator.is_, parts, self._parts))
        if not same or versions != self._versions:
            self._fused = torch.cat([part.detach() for part in parts])
            self._parts, self._versions = parts, versions
        return self._fused
