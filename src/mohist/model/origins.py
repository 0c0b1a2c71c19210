"""Where a tensor of ours lies in somebody else's checkpoint, and how to turn theirs into ours and back.

Families map the names of `mohist.model.tensors` to origins. Both kinds of names may hold `{layer}` (a name
of ours with a number in its place goes first), and a name of `Separate` `{expert}`. Groups are what the first
axis of a three-dimensional tensor counts.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mohist.weights.checkpoint import Checkpoint
from mohist.weights.formats import RawTensor, TensorInfo
from mohist.weights.quants import dequantize

__all__ = [
    "Alternate",
    "KeyPart",
    "Origin",
    "Plain",
    "RowPart",
    "Separate",
    "Shifted",
    "Transposed",
    "Unpermuted",
    "ValuePart",
    "assembled",
    "locate",
]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Origin(ABC):
    """How one of our tensors, of a given shape, is stored."""

    name: str
    """The stored tensor's name, or the pattern of several."""

    @abstractmethod
    def sources(self, shape: Shape) -> dict[str, Shape]:
        """The stored tensors that it is made of, and their shapes."""

    @abstractmethod
    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """The tensor, or every group of it in turn."""

    @abstractmethod
    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The stored tensors, or the parts of them that `join` puts together."""

    def join(self, parts: list[Tensor]) -> Tensor:
        """The stored tensor of which several of ours have written a part, in the decoder's order."""
        (whole,) = parts
        return whole

    def in_layer(self, index: int) -> Self:
        """The origin in one layer."""
        return dataclasses.replace(self, name=self.name.replace("{layer}", str(index)))


@dataclass(frozen=True)
class Plain(Origin):
    """Stored as it is, groups and all."""

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        return {self.name: shape}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        raw = checkpoint.read(self.name)
        if len(shape) < 3:
            yield raw
            return
        for group in raw.data.reshape(shape[0], shape[1], -1):
            yield _like(raw, group, shape[1:])

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor


@dataclass(frozen=True)
class Separate(Origin):
    """One stored tensor for each group."""

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        return {self._name(group): shape[1:] for group in range(shape[0])}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        for group in range(shape[0]):
            yield checkpoint.read(self._name(group))

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        for group, part in enumerate(tensor):
            yield self._name(group), part

    def _name(self, group: int) -> str:
        return self.name.replace("{expert}", str(group))


@dataclass(frozen=True)
class Unpermuted(Plain):
    """Rows of every head stored in neighbouring rope pairs (GGUF, `llama`), ours in halves."""

    num_heads: int

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        raw = checkpoint.read(self.name)
        halves = np.arange(shape[0]).reshape(self.num_heads, -1, 2).transpose(0, 2, 1).ravel()
        yield _like(raw, _take_rows(raw.data, halves), shape)

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        halves = tensor.unflatten(0, (self.num_heads, 2, -1))
        yield self.name, halves.transpose(1, 2).reshape(tensor.shape)


@dataclass(frozen=True)
class Shifted(Plain):
    """A vector stored with a number added, in float32: Gemma's norms, less 1 in its own files, in GGUF's.

    The sum rounds; whoever adds the number again gets what is stored, bit for bit.
    """

    by: float

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        yield RawTensor.plain(self.name, dequantize(checkpoint.read(self.name)) - self.by)

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor.float() + self.by


@dataclass(frozen=True)
class RowPart(Origin):
    """The upper (0) or lower (1) half of the rows of a fused matrix."""

    half: int

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        return {self.name: (2 * shape[0], *shape[1:])}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        raw = checkpoint.read(self.name)
        yield _like(raw, raw.data[self.half * shape[0] :][: shape[0]], shape)

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor

    def join(self, parts: list[Tensor]) -> Tensor:
        """See `Origin`."""
        return torch.cat(parts)


@dataclass(frozen=True)
class KeyPart(Origin):
    """The key rows of a fused [heads * (key rows + value rows), latent], stored transposed to ours."""

    value_rows: int

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        heads, latent, key_rows = shape
        return {self.name: (heads * (key_rows + self.value_rows), latent)}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`. Blocks run along the latent axis, which is not ours, so they are dequantised."""
        raw = checkpoint.read(self.name)
        fused = dequantize(raw) if raw.info.format.is_block else raw.data
        for head in fused.unflatten(0, (shape[0], -1)):
            yield RawTensor.plain(self.name, head[: shape[2]].T.contiguous())

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor.transpose(1, 2)

    def join(self, parts: list[Tensor]) -> Tensor:
        """See `Origin`: key rows, then value rows of every head."""
        return torch.cat(parts, dim=1).flatten(0, 1)


@dataclass(frozen=True)
class ValuePart(Origin):
    """The value rows of the same fused tensor."""

    key_rows: int

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        heads, value_rows, latent = shape
        return {self.name: (heads * (self.key_rows + value_rows), latent)}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        raw = checkpoint.read(self.name)
        for head in raw.data.unflatten(0, (shape[0], -1)):
            yield _like(raw, head[self.key_rows :], shape[1:])

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor


@dataclass(frozen=True)
class Transposed(Origin):
    """One matrix for each group, stored as [groups, columns, rows]."""

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        groups, rows, columns = shape
        return {self.name: (groups, columns, rows)}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        for group in checkpoint.read(self.name).data:
            yield RawTensor.plain(self.name, group.T.contiguous())

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor.transpose(1, 2)


@dataclass(frozen=True)
class Alternate(Origin):
    """Every second entry, from `first` on, of the last axis of a tensor that two of ours share.

    Matrices, one for each group, are stored transposed.
    """

    first: int

    def sources(self, shape: Shape) -> dict[str, Shape]:
        """See `Origin`."""
        groups, *middle, rows = (shape[0], *reversed(shape[1:]))
        return {self.name: (groups, *middle, 2 * rows)}

    def read(self, checkpoint: Checkpoint, shape: Shape) -> Iterator[RawTensor]:
        """See `Origin`."""
        own = checkpoint.read(self.name).data[..., self.first :: 2]
        for part in own if len(shape) == 3 else (own,):
            yield RawTensor.plain(self.name, (part.T if len(shape) == 3 else part).contiguous())

    def write(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """See `Origin`."""
        yield self.name, tensor.transpose(1, 2) if tensor.dim() == 3 else tensor

    def join(self, parts: list[Tensor]) -> Tensor:
        """See `Origin`."""
        return torch.stack(parts, dim=-1).flatten(-2)


def locate(origins: Mapping[str, Origin], tensor: str, num_layers: int) -> Origin:
    """The origin of the tensor that we call `tensor`. An MTP module counts as a layer after the last."""
    match = re.fullmatch(r"(layers|mtp)\.(\d+)\.(.+)", tensor)
    if match is None:
        return origins[tensor]
    kind, index, rest = match[1], int(match[2]), match[3]
    if kind == "mtp":
        index += num_layers
        kind, rest = ("layers", rest.removeprefix("block.")) if rest.startswith("block.") else (kind, rest)
    return (origins.get(f"{kind}.{index}.{rest}") or origins[f"{kind}.{{layer}}.{rest}"]).in_layer(index)


def assembled(tensors: Iterable[tuple[Origin, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The stored tensors, by name, that tensors of ours make up; parts of one come one after another."""
    pieces = ((origin, *piece) for origin, tensor in tensors for piece in origin.write(tensor))
    for name, group in groupby(pieces, key=lambda piece: piece[1]):
        (first, *_), _, parts = zip(*group, strict=True)
        yield name, first.join(list(parts))


def _take_rows(data: Tensor, order: np.ndarray) -> Tensor:
    """Rows in another order. By numpy, whose copies need no pool of threads (see `mohist.kernels.weight`)."""
    rows = data.reshape(len(data), -1).view(torch.uint8).numpy()
    return torch.from_numpy(rows[order]).view(data.dtype).reshape(data.shape)


def _like(raw: RawTensor, data: Tensor, shape: Shape) -> RawTensor:
    return RawTensor(TensorInfo(raw.info.name, raw.info.format, shape), data)
