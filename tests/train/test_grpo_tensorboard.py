"""Event files, read back by a decoder of our own and, where it is installed, by TensorBoard's."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mohist.train.tensorboard import crc32c, export_events

ROWS = [
    {"step": 0, "evaluation": {"greedy": {"accuracy": 0.25, "pass": {"2": 0.5}}}},
    {"step": 1, "seconds": 2.0, "reward": 0.5},
    {"step": 300, "seconds": 1.5, "reward": -1e30, "mismatch": 0.0},
]
WANTED = {
    ("evaluation/greedy/accuracy", 0, 0.0): 0.25,
    ("evaluation/greedy/pass/2", 0, 0.0): 0.5,
    ("seconds", 1, 2.0): 2.0,
    ("reward", 1, 2.0): 0.5,
    ("seconds", 300, 3.5): 1.5,
    ("reward", 300, 3.5): struct.unpack("<f", struct.pack("<f", -1e30))[0],
    ("mismatch", 300, 3.5): 0.0,
}


@pytest.fixture
def events(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '{"step": 30')
    return export_events(tmp_path, tmp_path / "events")


def fields(data: bytes) -> list[tuple[int, int | float | bytes]]:
    """A protocol buffer's fields, as far as event files use them."""
    found: list[tuple[int, int | float | bytes]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(data):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            found.append((number, varint()))
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        piece = data[place : place + size]
        place += size
        found.append((number, piece if kind == 2 else struct.unpack("<d" if kind == 1 else "<f", piece)[0]))
    return found


def test_the_file_says_what_was_logged(events: Path) -> None:
    data, found = events.read_bytes(), {}
    first, place = True, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        event = dict(fields(data[place + 12 : place + 12 + length]))
        place += 16 + length
        if first:
            assert event == {1: 0.0, 3: b"brain.Event:2"}
            first = False
            continue
        summary = event[5]
        assert isinstance(summary, bytes)
        for _, value in fields(summary):
            assert isinstance(value, bytes)
            tag, number = (piece for _, piece in fields(value))
            assert isinstance(tag, bytes)
            found[tag.decode(), event.get(2, 0), event[1]] = number
    assert place == len(data)
    assert found == WANTED


def test_checksums_are_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, appendix B.4


@pytest.mark.parity
def test_tensorboard_reads_it(events: Path) -> None:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = module.EventAccumulator(str(events.parent))
    reader.Reload()
    found = {
        (tag, event.step, event.wall_time): event.value
        for tag in reader.Tags()["scalars"]
        for event in reader.Scalars(tag)
    }
    assert found == WANTED
