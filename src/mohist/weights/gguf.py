"""GGUF files, the format of llama.cpp: metadata (tokenizer and template included) and tensors in one file.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all little-endian: magic, version, counts;
metadata pairs; tensor descriptions; padding; tensor data. A file is untrusted: every count, length, size and
offset is checked against the bytes that are there before it is used, so a hostile header can make us allocate
at most a small multiple of its own size.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mohist.errors import WeightsError
from mohist.weights.files import WeightFile
from mohist.weights.formats import Format, RawTensor, TensorInfo, read_buffers

__all__ = ["GgufCheckpoint"]

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4

STRING, ARRAY = 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype(np.bool_),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
"""Metadata type codes of numbers."""

GGML_FORMATS: dict[int, Format] = {
    0: Format.F32,
    1: Format.F16,
    2: Format.Q4_0,
    3: Format.Q4_1,
    6: Format.Q5_0,
    7: Format.Q5_1,
    8: Format.Q8_0,
    12: Format.Q4_K,
    13: Format.Q5_K,
    14: Format.Q6_K,
    30: Format.BF16,
    39: Format.MXFP4,
}
"""Tensor type codes that we read."""

_OTHER_GGML_FORMATS = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
    18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16",
    26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
}  # fmt: skip

_MAX_KEY_BYTES = 65_535
_READ_AHEAD_BYTES = 1 << 20
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class GgufCheckpoint:
    """A GGUF file, its header read and checked. `tensors` is in file order.

    `config` is the raw metadata: numbers and strings as Python values, arrays of strings as lists of `str`,
    arrays of numbers as one-dimensional numpy arrays (a list of Python numbers would take up to 40 times
    the bytes of the file).
    """

    kind: Literal["gguf"] = "gguf"

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = WeightFile.of(path)
        self._buffers = read_buffers()
        with self._file.open() as file:
            head = _Head(file, self._file)
            num_tensors, num_pairs = head.counts()
            self.config: dict[str, Any] = head.metadata(num_pairs)
            described = head.tensors(num_tensors)
        split = self.config.get("split.count", 1)
        if isinstance(split, int) and split > 1:
            raise WeightsError(f"{path}: is one of {split} parts; join them with `llama-gguf-split --merge`")
        self._offsets = _place(self._file, described, head.position, _alignment(self._file, self.config))
        self.tensors: Mapping[str, TensorInfo] = {name: info for name, (info, _) in described.items()}

    def read(self, name: str) -> RawTensor:
        """One tensor, read into fresh memory. Raises WeightsError when there is none of that name."""
        if name not in self.tensors:
            raise WeightsError(f"{self.path}: holds no tensor {name!r}")
        return RawTensor.read(self._file, self.tensors[name], self._offsets[name], self._buffers)


class _Head:
    """Walks forward through a file's header; the one place where lengths in the file are believed or not."""

    def __init__(self, file: io.FileIO, source: WeightFile) -> None:
        self.position = 0
        self._context = "header"
        self._file = file
        self._source = source
        self._buffer = bytearray()

    def counts(self) -> tuple[int, int]:
        """Check magic and version; the numbers of tensors and of metadata pairs."""
        if self._take(4) != MAGIC:
            raise self._error("is no GGUF file: it does not begin with 'GGUF'", fix="")
        version = self._u32()
        if version & 0xFFFF == 0:
            raise self._error("is big-endian, which Mohist does not read", fix="convert it to little-endian")
        if version not in (2, 3):
            raise self._error(
                f"is GGUF version {version}; Mohist reads 2 and 3", fix="convert the model anew"
            )
        num_tensors, num_pairs = self._u64(), self._u64()
        self._check_count(num_tensors, 24, "tensors")
        self._check_count(num_pairs, 13, "metadata pairs")
        return num_tensors, num_pairs

    def metadata(self, num_pairs: int) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for index in range(num_pairs):
            self._context = f"metadata pair {index}"
            key = self._string(max_bytes=_MAX_KEY_BYTES)
            self._context = f"metadata {key!r:.100}"
            if key in pairs:
                raise self._error("occurs twice")
            pairs[key] = self._value(self._u32())
        return pairs

    def tensors(self, num_tensors: int) -> dict[str, tuple[TensorInfo, int]]:
        """Tensors and where their bytes begin, relative to the data section."""
        described: dict[str, tuple[TensorInfo, int]] = {}
        for index in range(num_tensors):
            self._context = f"tensor {index}"
            name = self._string(max_bytes=_MAX_KEY_BYTES)
            self._context = f"tensor {name!r:.100}"
            if name in described:
                raise self._error("occurs twice")
            described[name] = self._tensor(name)
        return described

    def _tensor(self, name: str) -> tuple[TensorInfo, int]:
        num_dims = self._u32()
        if not 1 <= num_dims <= MAX_DIMS:
            raise self._error(f"has {num_dims} dimensions; 1 to {MAX_DIMS} are possible")
        dims = struct.unpack(f"<{num_dims}Q", self._take(8 * num_dims))
        code = self._u32()
        if code not in GGML_FORMATS:
            raise self._error(
                f"is stored as {_OTHER_GGML_FORMATS.get(code, f'type {code}')}; Mohist reads "
                + ", ".join(format.upper() for format in GGML_FORMATS.values()),
                fix="take another quantisation of this model" if code in _OTHER_GGML_FORMATS else _REFETCH,
            )
        info = TensorInfo(name, GGML_FORMATS[code], dims[::-1])
        if 0 in dims or dims[0] % info.format.block_values:
            raise self._error(f"cannot have {info.format} rows in shape {list(info.shape)}")
        return info, self._u64()

    def _value(self, code: int) -> Any:
        if code == STRING:
            return self._string()
        if code == ARRAY:
            return self._array(self._u32(), self._u64())
        return self._numbers(code, 1).item()

    def _array(self, code: int, count: int) -> list[str] | np.ndarray[Any, Any]:
        if code == STRING:
            self._check_count(count, 8, "strings")
            return self._strings(count)
        return self._numbers(code, count)

    def _numbers(self, code: int, count: int) -> np.ndarray[Any, Any]:
        if code not in NUMBERS:  # an array of arrays too: no writer makes them and llama.cpp refuses them
            raise self._error(f"has unknown value type {code}")
        dtype = NUMBERS[code]
        self._check_count(count, dtype.itemsize, "numbers")
        data = self._take(count * dtype.itemsize)
        if dtype == np.bool_ and any(data.translate(None, b"\x00\x01")):
            raise self._error("holds a boolean that is neither 0 nor 1")
        return np.frombuffer(data, dtype)

    def _strings(self, count: int) -> list[str]:
        """Vocabularies have 100,000s of strings: one tight loop, which still checks every length."""
        strings: list[str] = []
        buffer, position, unpack = self._buffer, self.position, _U64.unpack_from
        filled = len(buffer)
        for _ in range(count):
            begin = position + 8
            if begin > filled:
                filled = self._fill(begin)
            end = begin + unpack(buffer, position)[0]
            if end > filled:
                filled = self._fill(end)
            try:
                strings.append(buffer[begin:end].decode())
            except UnicodeDecodeError as error:
                self.position = position
                raise self._error("holds a string that is not UTF-8") from error
            self.position = position = end
        return strings

    def _string(self, max_bytes: int | None = None) -> str:
        length = self._u64()
        if max_bytes is not None and length > max_bytes:
            raise self._error(f"has a name of {length:,} bytes; at most {max_bytes:,} are possible")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError as error:
            raise self._error("holds a string that is not UTF-8") from error

    def _u32(self) -> int:
        return _U32.unpack(self._take(4))[0]

    def _u64(self) -> int:
        return _U64.unpack(self._take(8))[0]

    def _take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        self._fill(end)
        data = bytes(memoryview(self._buffer)[self.position : end])
        self.position = end
        return data

    def _fill(self, end: int) -> int:
        """Have the file's bytes up to `end` at hand; how many bytes are."""
        if end > self._source.num_bytes:
            raise self._error(f"needs bytes up to {end:,}, but the file has {self._source.num_bytes:,}")
        while len(self._buffer) < end:
            ahead = min(len(self._buffer) + _READ_AHEAD_BYTES, self._source.num_bytes)
            data = self._file.read(max(end, ahead) - len(self._buffer))
            if not data:
                raise self._error("needs more bytes, but the file ends")
            self._buffer += data
        return len(self._buffer)

    def _check_count(self, count: int, least_bytes: int, what: str) -> None:
        left = self._source.num_bytes - self.position
        if count * least_bytes > left:
            raise self._error(f"claims {count:,} {what}, which cannot fit in the {left:,} bytes left")

    def _error(self, problem: str, fix: str | None = None) -> WeightsError:
        fix = _REFETCH if fix is None else fix
        at = f"{self._source.path}: {self._context} (at byte {self.position:,}) {problem}"
        return WeightsError(f"{at}; {fix}" if fix else at)


_REFETCH = "the file is truncated or corrupt: fetch it again"


def _alignment(file: WeightFile, metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise WeightsError(f"{file.path}: general.alignment = {alignment!r} is no power of two; {_REFETCH}")
    return alignment


def _place(
    file: WeightFile, described: Mapping[str, tuple[TensorInfo, int]], head_bytes: int, alignment: int
) -> dict[str, int]:
    """Where each tensor begins in the file: aligned, inside the file, and not on another tensor's bytes."""
    data_begin = -(-head_bytes // alignment) * alignment
    offsets: dict[str, int] = {}
    taken = 0
    for info, offset in sorted(described.values(), key=lambda pair: pair[1]):
        end = offset + info.num_bytes
        if offset % alignment:
            fault = f"does not begin at a multiple of {alignment}"
        elif offset < taken:
            fault = f"overlaps the tensor before it, which ends at {taken:,}"
        elif data_begin + end > file.num_bytes:
            fault = f"ends beyond the file, which has {file.num_bytes:,} bytes"
        else:
            offsets[info.name] = data_begin + offset
            taken = end
            continue
        place = f"offset {offset:,}, {info.num_bytes:,} bytes"
        raise WeightsError(f"{file.path}: tensor {info.name!r:.100} ({place}) {fault}; {_REFETCH}")
    return offsets
