"""A run's metrics as TensorBoard reads them: an event file, written without its library.

The file is a sequence of TFRecords (length, its masked CRC-32C, data, its masked CRC-32C), each an `Event`
protocol buffer: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mohist.train.logs import read_metrics
from mohist.weights.files import write_whole

__all__ = ["export_events"]

FILE_NAME = "events.out.tfevents.0.mohist"
"""TensorBoard looks for "tfevents" in the name."""
POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), bits reversed."""


def export_events(run: Path, folder: Path) -> Path:
    """Write the metrics of the run in folder `run` into a file in `folder`, in place of an older one.

    Time in it is the seconds that the run has worked, from 0. Raises RunError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with write_whole(path) as file:
        file.write(_record(_double(1, 0.0) + _bytes(3, b"brain.Event:2")))
        seconds = 0.0
        for row in read_metrics(run):
            seconds += row.get("seconds", 0.0)
            values = b"".join(
                _bytes(1, _bytes(1, tag.encode()) + _float(2, value)) for tag, value in _scalars(row)
            )
            file.write(_record(_double(1, seconds) + _varint_field(2, row["step"]) + _bytes(5, values)))
    return path


def _scalars(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row by tag; those of nested objects under "outer/inner"."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield prefix + name, float(value)


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data))


def _double(field: int, value: float) -> bytes:
    return bytes([field << 3 | 1]) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return bytes([field << 3 | 5]) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint_field(field: int, value: int) -> bytes:
    return bytes([field << 3]) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the top bit set."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _masked_crc(data: bytes) -> int:
    """The CRC rotated by 15 bits, plus a constant, as TFRecords have it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data` (RFC 3720, appendix B.4)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def _table() -> Sequence[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()
