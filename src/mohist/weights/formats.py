"""The number formats of stored weights, and what a tensor on disk is.

A plain format stores one number per value. A block format stores each row as blocks of 32 or 256 values
that share scales; its bytes are those of ggml (`ggml-common.h`), which GGUF files hold. A code format stores
what only has a meaning beside other tensors: see `mohist.weights.packed`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from mohist.errors import WeightsError
from mohist.kernels.memory import Recycler, zero_pages
from mohist.weights.files import WeightFile

__all__ = ["Format", "Packed", "RawTensor", "TensorInfo", "bytes_per_row", "read_buffers"]

_SMALL_BYTES, _LARGE_BYTES = 1 << 16, 8 << 20


def read_buffers() -> Recycler:
    """Memory for the tensors of a checkpoint, of which most are gone when the next one is read.

    The heap, PyTorch's own, would grow by up to a fifth of the model: small things settle where a tensor was,
    and the next one does not fit there any more. Large tensors give their memory back to the system.
    """
    return Recycler(_SMALL_BYTES)


class Format(enum.StrEnum):
    """How the values of a tensor are stored."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    F8_E4M3 = "f8_e4m3"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"
    Q4_1 = "q4_1"
    Q5_0 = "q5_0"
    Q5_1 = "q5_1"
    Q4_K = "q4_k"
    Q5_K = "q5_k"
    Q6_K = "q6_k"
    MXFP4 = "mxfp4"
    U8 = "u8"
    I32 = "i32"
    I64 = "i64"
    F8_E8M0 = "f8_e8m0"

    @property
    def block_values(self) -> int:
        """Values that one block holds; 1 for a plain format."""
        return _BLOCKS[self].values

    @property
    def block_bytes(self) -> int:
        """Bytes that one block takes."""
        return _BLOCKS[self].bytes

    @property
    def dtype(self) -> torch.dtype:
        """What a `RawTensor` of this format holds: the number type, or uint8 for a block format."""
        return _BLOCKS[self].dtype

    @property
    def is_block(self) -> bool:
        """Whether values are stored in blocks with shared scales."""
        return self.block_values > 1

    @property
    def is_code(self) -> bool:
        """Whether values are no weights by themselves, but parts of a packed tensor."""
        return self in _CODES


_CODES = frozenset((Format.U8, Format.I32, Format.I64, Format.F8_E8M0))


class _Block(NamedTuple):
    values: int
    bytes: int
    dtype: torch.dtype


_BLOCKS = {
    Format.F32: _Block(1, 4, torch.float32),
    Format.F16: _Block(1, 2, torch.float16),
    Format.BF16: _Block(1, 2, torch.bfloat16),
    Format.F8_E4M3: _Block(1, 1, torch.float8_e4m3fn),
    Format.Q8_0: _Block(32, 2 + 32, torch.uint8),
    Format.Q4_0: _Block(32, 2 + 16, torch.uint8),
    Format.Q4_1: _Block(32, 2 + 2 + 16, torch.uint8),
    Format.Q5_0: _Block(32, 2 + 4 + 16, torch.uint8),
    Format.Q5_1: _Block(32, 2 + 2 + 4 + 16, torch.uint8),
    Format.Q4_K: _Block(256, 2 + 2 + 12 + 128, torch.uint8),
    Format.Q5_K: _Block(256, 2 + 2 + 12 + 32 + 128, torch.uint8),
    Format.Q6_K: _Block(256, 128 + 64 + 16 + 2, torch.uint8),
    Format.MXFP4: _Block(32, 1 + 16, torch.uint8),
    Format.U8: _Block(1, 1, torch.uint8),
    Format.I32: _Block(1, 4, torch.int32),
    Format.I64: _Block(1, 8, torch.int64),
    Format.F8_E8M0: _Block(1, 1, torch.float8_e8m0fnu),
}


def bytes_per_row(format: Format, k: int) -> int:
    """Bytes that a row of `k` values takes. Raises WeightsError when `k` is no whole number of blocks."""
    blocks, rest = divmod(k, format.block_values)
    if rest:
        raise WeightsError(
            f"a row of {k} values cannot be {format}: its blocks hold {format.block_values} values each; "
            "keep this tensor in f32, f16 or bf16"
        )
    return blocks * format.block_bytes


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor as a file describes it. `shape` is in torch order: rows first, contraction axis last."""

    name: str
    format: Format
    shape: tuple[int, ...]

    @property
    def num_values(self) -> int:
        """Values that the tensor holds."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Bytes that the tensor takes on disk and in a `RawTensor`."""
        if not self.shape:
            return bytes_per_row(self.format, 1)
        return math.prod(self.shape[:-1]) * bytes_per_row(self.format, self.shape[-1])


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor with its values as they are stored.

    `data` of a plain format has the format's number type and `info.shape`. `data` of a block format is uint8
    `[rows, bytes_per_row]`, where the rows are all leading axes of `info.shape` together.
    """

    info: TensorInfo
    data: torch.Tensor

    @classmethod
    def plain(cls, name: str, tensor: torch.Tensor) -> RawTensor:
        """A float32, float16, bfloat16 or float8_e4m3fn tensor as it would be stored."""
        formats = {format.dtype: format for format in Format if not format.is_block and not format.is_code}
        if tensor.dtype not in formats:
            raise WeightsError(
                f"tensor {name!r}: {tensor.dtype} is no weight format; convert it to bfloat16 or float32"
            )
        return cls(TensorInfo(name, formats[tensor.dtype], tuple(tensor.shape)), tensor.detach())

    @classmethod
    def read(cls, file: WeightFile, info: TensorInfo, offset: int, buffers: Recycler) -> RawTensor:
        """The tensor whose bytes begin at `offset` of a file, in memory that no other tensor uses."""
        large = info.num_bytes >= _LARGE_BYTES
        buffer = zero_pages(info.num_bytes) if large else buffers.empty(info.num_bytes, dtype=torch.uint8)
        file.read_into(memoryview(buffer.numpy()), offset)
        return cls(info, buffer.view(info.format.dtype).view(_raw_shape(info)))

    def stored_bytes(self) -> memoryview:
        """The bytes as a file holds them; a copy only where `data` is not contiguous or not on the CPU."""
        return memoryview(self.data.cpu().contiguous().view(-1).view(torch.uint8).numpy())

    def __post_init__(self) -> None:
        expected = _raw_shape(self.info)
        if self.data.dtype != self.info.format.dtype or tuple(self.data.shape) != expected:
            raise WeightsError(
                f"tensor {self.info.name!r}: {self.info.format} of shape {self.info.shape} is stored as "
                f"{self.info.format.dtype} {list(expected)}, not {self.data.dtype} {list(self.data.shape)}"
            )


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor that is stored as several (see `mohist.weights.packed`)."""

    info: TensorInfo
    """Its name, the format of its codes, and its shape when unpacked."""
    parts: tuple[str, ...]
    """The stored tensors that it is made of, ..."""
    unpack: Callable[..., RawTensor]
    """... which this takes in that order, and returns the values as F32 or BF16."""


def _raw_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape of `RawTensor.data` for a tensor: its own, or `[rows, bytes_per_row]` for a block format."""
    if not info.format.is_block:
        return info.shape
    columns = info.shape[-1] if info.shape else 1
    return math.prod(info.shape[:-1]), bytes_per_row(info.format, columns)
