"""Writes GGUF version 3: for tests, benchmarks and conversion."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mohist.errors import WeightsError
from mohist.weights.files import write_whole
from mohist.weights.formats import RawTensor, TensorInfo
from mohist.weights.gguf import ARRAY, DEFAULT_ALIGNMENT, GGML_FORMATS, MAGIC, MAX_DIMS, NUMBERS, STRING

__all__ = ["write_gguf", "write_gguf_stream"]

_NUMBER_CODES = {dtype: code for code, dtype in NUMBERS.items()}
_FORMAT_CODES = {format: code for code, format in GGML_FORMATS.items()}
_INTEGERS = {"<u4": (0, 2**32), "<i4": (-(2**31), 2**31), "<u8": (0, 2**64), "<i8": (-(2**63), 2**63)}


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Sequence[RawTensor]) -> None:
    """Write a GGUF file, whole or not at all.

    Metadata values: `str`, `bool`, `int` (u32 where it fits, else i32, u64, i64), `float` (f32), numpy
    scalars (their own type), lists of `str`, and numpy arrays or lists of numbers. The alignment is that of
    `metadata["general.alignment"]`, 32 without it.
    """
    write_gguf_stream(path, metadata, [tensor.info for tensor in tensors], tensors)


def write_gguf_stream(
    path: Path, metadata: Mapping[str, Any], infos: Sequence[TensorInfo], tensors: Iterable[RawTensor]
) -> None:
    """The same for tensors that come one at a time, as `infos` announces them, in that order."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    head = [MAGIC, struct.pack("<IQQ", 3, len(infos), len(metadata))]
    for key, value in metadata.items():
        code, data = _encode(key, value)
        head += [_string(key), struct.pack("<I", code), data]
    offset = 0
    for info in infos:
        head.append(_describe(info, offset))
        offset += _padded(info.num_bytes, alignment)
    header = b"".join(head)
    with write_whole(path) as file:
        file.write(header.ljust(_padded(len(header), alignment), b"\0"))
        for info, tensor in zip(infos, tensors, strict=True):
            assert tensor.info == info, (tensor.info, info)
            file.write(tensor.stored_bytes())
            file.write(bytes(_padded(tensor.info.num_bytes, alignment) - tensor.info.num_bytes))


def _describe(info: TensorInfo, offset: int) -> bytes:
    dims = info.shape[::-1] or (1,)
    if info.format not in _FORMAT_CODES or len(dims) > MAX_DIMS or 0 in dims:
        raise WeightsError(
            f"tensor {info.name!r}: {info.format} of shape {list(info.shape)} cannot be in a GGUF file"
        )
    return _string(info.name) + struct.pack(
        f"<I{len(dims)}QIQ", len(dims), *dims, _FORMAT_CODES[info.format], offset
    )


def _encode(key: str, value: Any) -> tuple[int, bytes]:
    """A metadata value's type code and bytes."""
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return ARRAY, struct.pack("<IQ", STRING, len(value)) + b"".join(map(_string, value))
    numbers = _as_numbers(value)
    if numbers is None or numbers.dtype not in _NUMBER_CODES or numbers.ndim > 1:
        raise WeightsError(f"metadata {key!r}: GGUF cannot hold {type(value).__name__} {value!r:.80}")
    code = _NUMBER_CODES[numbers.dtype]
    if numbers.ndim == 0:
        return code, numbers.tobytes()
    return ARRAY, struct.pack("<IQ", code, len(numbers)) + numbers.tobytes()


def _as_numbers(value: Any) -> np.ndarray[Any, Any] | None:
    """The value as little-endian numbers of the type that it will have in the file."""
    if isinstance(value, np.generic | np.ndarray):
        array = np.asarray(value)
        return array.astype(array.dtype.newbyteorder("<"))
    items = list(value) if isinstance(value, list | tuple) else [value]
    if all(type(item) is bool for item in items):
        dtype = np.dtype(np.bool_)
    elif all(type(item) is int for item in items):
        low, high = min(items), max(items)
        fitting = [name for name, (least, end) in _INTEGERS.items() if least <= low and high < end]
        if not fitting:
            return None
        dtype = np.dtype(fitting[0])
    elif all(type(item) is float for item in items):
        dtype = np.dtype("<f4")
    else:
        return None
    return np.array(value, dtype)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(num_bytes: int, alignment: int) -> int:
    return -(-num_bytes // alignment) * alignment
