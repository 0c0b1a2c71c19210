"""Mutated weight files: each one ends in a MohistError or in a correct load, within bounded memory.

How memory is measured: `tracemalloc` sees every allocation of Python objects and numpy arrays while a case
runs; tensors come from `torch.empty`, which is wrapped to record what is asked of it. The first must stay
under 16 times the file's size plus a constant, the second under the file's size for each tensor. A hang
ends in the suite's timeout. A correct load is one whose tensors are exactly the bytes of the file that their
header claims; safetensors files that we accept must be accepted, and read alike, by the safetensors library.
"""

from __future__ import annotations

import contextlib
import json
import random
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mohist.errors import MohistError
from mohist.weights import gguf, gguf_writer
from mohist.weights.checkpoint import Checkpoint, open_checkpoint, save_safetensors
from mohist.weights.gguf import GgufCheckpoint
from mohist.weights.safetensors import SafetensorsCheckpoint

FACTOR = 16
CONSTANT_BYTES = 256 * 1024
"""Error messages, tracebacks, file objects and one read-ahead of a small file."""

GGUF_CASES, REAL_CASES, SAFETENSORS_CASES, JSON_CASES, PACKED_CASES = 6000, 600, 4000, 800, 1000
EXTREMES = [
    0,
    1,
    2,
    7,
    31,
    32,
    255,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
]


@pytest.fixture
def bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[Callable[[int], contextlib.AbstractContextManager[None]]]:
    """Checks, around one case, that no more memory is taken than a file of so many bytes is worth."""
    asked: list[int] = []
    empty = torch.empty

    def recording(*shape: int, **options: Any) -> torch.Tensor:
        asked.append(np.prod(shape).item())
        return empty(*shape, **options)

    @contextlib.contextmanager
    def bound(file_bytes: int) -> Generator[None]:
        asked.clear()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        yield
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before <= FACTOR * file_bytes + CONSTANT_BYTES
        assert max(asked, default=0) <= file_bytes

    monkeypatch.setattr(torch, "empty", recording)
    tracemalloc.start()
    yield bound
    tracemalloc.stop()


@pytest.fixture
def ram_folder() -> Generator[Path]:
    """Thousands of files are written: into memory where the system has a place for that."""
    ram = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=ram if ram.is_dir() else None) as folder:
        yield Path(folder)


class Mutator:
    """Draws damaged copies of a file; `fields` are the places of numbers that a header lies with best."""

    def __init__(self, seed: int, original: bytes, fields: list[tuple[int, int]], head_bytes: int) -> None:
        self.draw = random.Random(seed)
        self.original = original
        self.fields = fields
        self.head_bytes = head_bytes

    def mutated(self) -> bytes:
        data = bytearray(self.original)
        for _ in range(self.draw.choice((1, 1, 1, 2, 4))):
            self.draw.choice((self.flip, self.lie, self.lie, self.truncate, self.splice))(data)
        return bytes(data)

    def place(self, data: bytearray) -> int:
        """Somewhere in the file, mostly in its header."""
        limit = self.head_bytes if self.draw.random() < 0.9 else len(data)
        return self.draw.randrange(max(1, min(limit, len(data))))

    def flip(self, data: bytearray) -> None:
        for _ in range(self.draw.choice((1, 2, 8))):
            if data:
                data[self.place(data)] ^= 1 << self.draw.randrange(8)

    def lie(self, data: bytearray) -> None:
        at, size = self.draw.choice(self.fields)
        value = self.draw.choice([*EXTREMES, len(data), len(data) - at, self.draw.randrange(64)])
        if self.draw.random() < 0.3:
            value = int.from_bytes(data[at : at + size], "little") + self.draw.choice((-32, -1, 1, 32))
        data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")

    def truncate(self, data: bytearray) -> None:
        del data[self.place(data) :]

    def splice(self, data: bytearray) -> None:
        start, length, target = self.place(data), self.draw.choice((1, 4, 8, 30, 200)), self.place(data)
        piece = data[start : start + length]
        data[target : target + self.draw.choice((0, len(piece)))] = self.draw.choice(
            (b"", piece, bytes(length))
        )


def number_fields(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where a GGUF header holds counts, lengths, types, sizes and offsets, as (byte, width)."""
    fields: list[tuple[int, int]] = []
    take = gguf._Head._take

    def recording(head: gguf._Head, num_bytes: int) -> bytes:
        if num_bytes in (4, 8):
            fields.append((head.position, num_bytes))
        return take(head, num_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(gguf._Head, "_take", recording)
        GgufCheckpoint(path)
    return fields


def check_gguf(checkpoint: Checkpoint, data: bytes, max_tensor_bytes: int) -> None:
    """Every tensor is what the file has at its place, and no two share a byte."""
    assert isinstance(checkpoint, GgufCheckpoint)
    taken = 0
    for name, begin in sorted(checkpoint._offsets.items(), key=lambda item: item[1]):
        info = checkpoint.tensors[name]
        assert begin >= taken
        taken = begin + info.num_bytes
        if info.num_bytes <= max_tensor_bytes:
            stored = checkpoint.read(name).stored_bytes().tobytes()
            assert stored == data[begin:taken].ljust(info.num_bytes, b"\0")


Bound = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize("seed", range(4))
def test_mutated_gguf_files(
    tiny_gguf: Path, ram_folder: Path, bounded: Bound, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    original = tiny_gguf.read_bytes()
    head_bytes = min(GgufCheckpoint(tiny_gguf)._offsets.values())
    mutator = Mutator(seed, original, number_fields(tiny_gguf, monkeypatch), head_bytes)
    path = ram_folder / "mutated.gguf"
    loads = 0
    for _ in range(GGUF_CASES // 4):
        data = mutator.mutated()
        write(path, data)
        with bounded(len(data)), contextlib.suppress(MohistError):
            check_gguf(open_checkpoint(path), data, len(data))
            loads += 1
    assert 0.05 < loads / (GGUF_CASES // 4) < 0.7


@pytest.mark.real_model
@pytest.mark.parametrize("seed", range(2))
def test_mutations_of_the_real_header(
    smollm2: Path, ram_folder: Path, bounded: Bound, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """SmolLM2's own 272 tensors and metadata, vocabulary cut to 50 entries, over a hole for the weights."""
    path = ram_folder / "real.gguf"
    header, file_bytes = shortened(smollm2, 50)
    write(path, header, file_bytes)
    mutator = Mutator(seed, header, number_fields(path, monkeypatch), len(header))
    for _ in range(REAL_CASES // 2):
        data = mutator.mutated()
        write(path, data, file_bytes)
        with bounded(file_bytes // 4), contextlib.suppress(MohistError):
            check_gguf(open_checkpoint(path), data, 1024)


@pytest.mark.real_model
def test_the_real_header_truncated_and_lied_about(smollm2: Path, ram_folder: Path, bounded: Bound) -> None:
    """The whole 1.8 MB header, vocabulary and all."""
    with smollm2.open("rb") as file:
        header = file.read(min(GgufCheckpoint(smollm2)._offsets.values()))
    mutator = Mutator(0, header, [(at, 8) for at in range(8, 24, 8)], len(header))
    path = ram_folder / "real.gguf"
    for _ in range(12):
        data = mutator.mutated()
        write(path, data, smollm2.stat().st_size)
        with bounded(smollm2.stat().st_size // 4), contextlib.suppress(MohistError):
            check_gguf(open_checkpoint(path), data, 0)


def shortened(path: Path, num_strings: int) -> tuple[bytes, int]:
    """The header of a real GGUF file with its string arrays cut short, and the size of the whole file."""
    source = GgufCheckpoint(path)
    pairs = b""
    for key, value in source.config.items():
        code, data = gguf_writer._encode(key, value[:num_strings] if isinstance(value, list) else value)
        pairs += gguf_writer._string(key) + struct.pack("<I", code) + data
    tensors, offset = b"", 0
    for info in source.tensors.values():
        dims = info.shape[::-1]
        code = {format: code for code, format in gguf.GGML_FORMATS.items()}[info.format]
        tensors += gguf_writer._string(info.name)
        tensors += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, code, offset)
        offset += -(-info.num_bytes // 32) * 32
    counts = struct.pack("<IQQ", 3, len(source.tensors), len(source.config))
    header = b"GGUF" + counts + pairs + tensors
    header += bytes(-len(header) % 32)
    return header, len(header) + offset


def write(path: Path, data: bytes, file_bytes: int = 0) -> None:
    """A file of at least so many bytes, the rest a hole."""
    with path.open("wb") as file:
        file.write(data)
        file.truncate(max(file_bytes, len(data)))


# Safetensors folders.


@pytest.fixture
def model_folder(ram_folder: Path) -> Path:
    """Two shards, plain and FP8 matrices."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"model.layers.{i}.w": torch.randn(4, 6, generator=generator).bfloat16() for i in range(4)}
    tensors["norm"] = torch.randn(5, generator=generator)
    tensors["q"] = torch.randn(20, 30, generator=generator).to(torch.float8_e4m3fn)
    tensors["q_scale_inv"] = torch.ones(1, 1)
    config = {
        "model_type": "llama",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    }
    save_safetensors(ram_folder / "model", tensors, config=config, max_shard_bytes=400)
    return ram_folder / "model"


class TextMutator(Mutator):
    """Damages JSON as text too, and mostly keeps the header's length true, so that the damage is reached."""

    pieces = (
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"\\",
        b"0",
        b"-1",
        b"1e3",
        b"null",
        b"18446744073709551616",
    )

    def mutated(self) -> bytes:
        data = bytearray(super().mutated() if self.draw.random() < 0.5 else self.original)
        for _ in range(self.draw.choice((0, 1, 1, 3))):
            at = self.place(data)
            data[at : at + self.draw.choice((0, 1, 3))] = self.draw.choice(self.pieces)
        return self.true_length(bytes(data)) if self.draw.random() < 0.7 else bytes(data)

    def true_length(self, data: bytes) -> bytes:
        end = data.rfind(b"}", 0, self.head_bytes + 20) + 1
        return struct.pack("<Q", end - 8) + data[8:] if end > 8 else data


@pytest.mark.parametrize("seed", range(2))
def test_mutated_safetensors_files(model_folder: Path, ram_folder: Path, bounded: Bound, seed: int) -> None:
    library = pytest.importorskip("safetensors")
    shard = sorted(model_folder.glob("*.safetensors"))[0]
    original = shard.read_bytes()
    head_bytes = 8 + int.from_bytes(original[:8], "little")
    mutator = TextMutator(seed, original, [(0, 8)], head_bytes)
    alone = ram_folder / "alone"
    alone.mkdir()
    (alone / "config.json").write_text("{}")
    loads = 0
    for _ in range(SAFETENSORS_CASES // 2):
        data = mutator.mutated()
        write(alone / "model.safetensors", data)
        tensors = {}
        with bounded(len(data)), contextlib.suppress(MohistError):
            checkpoint = open_checkpoint(alone)
            tensors = {name: checkpoint.read(name).stored_bytes().tobytes() for name in checkpoint.tensors}
            loads += 1
        if tensors:
            theirs = {name: bytes(view["data"]) for name, view in library.deserialize(data)}
            assert tensors == theirs
    assert 0.02 < loads / (SAFETENSORS_CASES // 2) < 0.7


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_mutated_json_files(model_folder: Path, bounded: Bound, name: str) -> None:
    path = model_folder / name
    original = path.read_bytes()
    mutator = TextMutator(0, original, [(0, 8)], len(original))
    for _ in range(JSON_CASES // 2):
        data = mutator.mutated()
        write(path, data)
        with bounded(len(data) + 2000), contextlib.suppress(MohistError):
            checkpoint = open_checkpoint(model_folder)
            assert isinstance(checkpoint, SafetensorsCheckpoint)
            for tensor in checkpoint.tensors:
                checkpoint.read(tensor)


@pytest.fixture
def packed_folder(ram_folder: Path) -> Path:
    """MXFP4, 4-bit integers, and FP8 with bare exponents and with a single scale."""
    library = pytest.importorskip("safetensors.torch")
    folder = ram_folder / "packed"
    folder.mkdir()
    tensors = {
        "e_blocks": torch.arange(192, dtype=torch.uint8).view(2, 3, 2, 16),
        "e_scales": torch.full((2, 3, 2), 120, dtype=torch.uint8),
        "i.weight_packed": torch.arange(-8, 8, dtype=torch.int32).view(2, 8),
        "i.weight_scale": torch.ones(2, 2, dtype=torch.bfloat16),
        "i.weight_shape": torch.tensor([2, 64]),
        "f.weight": torch.ones(3, 5).to(torch.float8_e4m3fn),
        "f.weight_scale_inv": torch.full((1, 1), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu),
    }
    library.save_file(tensors, folder / "model.safetensors")
    weights = {"num_bits": 4, "type": "int", "symmetric": True}
    config = {"quantization_config": {"config_groups": {"g": {"weights": weights}}}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_mutated_packed_tensors(packed_folder: Path, bounded: Bound, name: str) -> None:
    path = packed_folder / name
    original = path.read_bytes()
    head_bytes = 8 + int.from_bytes(original[:8], "little") if name.endswith("s") else len(original)
    mutator = TextMutator(1, original, [(0, 8)], head_bytes)
    loads = 0
    for _ in range(PACKED_CASES // 2):
        data = mutator.mutated()
        write(path, data)
        with bounded(8 * len(data) + 4096), contextlib.suppress(MohistError):
            checkpoint = open_checkpoint(packed_folder)
            for tensor, info in checkpoint.tensors.items():
                assert checkpoint.read(tensor).info.shape == info.shape
            loads += 1
    assert 0.01 < loads / (PACKED_CASES // 2) < 0.8


# Files made to take as much memory as they can.


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def array(code: int, count: int, items: bytes) -> bytes:
    return string("k") + struct.pack("<IIQ", 9, code, count) + items


MANY = 5000
GREEDY_GGUF = {
    "short strings": (0, 1, array(8, MANY, b"".join(string(f"{i % 256:02x}") for i in range(MANY)))),
    "empty strings": (0, 1, array(8, MANY, bytes(8 * MANY))),
    "wide strings": (0, 1, array(8, MANY, string("a墨") * MANY)),
    "negative bytes": (0, 1, array(1, 40 * MANY, b"\x80" * (40 * MANY))),
    "pairs": (0, MANY, b"".join(string(f"{i:04x}") + b"\0\0\0\0\1" for i in range(MANY))),
    "empty arrays": (
        0,
        MANY,
        b"".join(string(f"{i:04x}") + struct.pack("<IIQ", 9, 0, 0) for i in range(MANY)),
    ),
    "tensors": (
        MANY,
        0,
        b"".join(string(f"{i:04x}") + struct.pack("<IQIQ", 1, 1, 0, 32 * i) for i in range(MANY)),
    ),
    "one long string": (0, 1, string("k") + struct.pack("<I", 8) + string("墨" * 100_000)),
    "claimed strings": (0, 1, array(8, 2**32, bytes(8 * MANY))),
    "claimed numbers": (0, 1, array(10, 2**60, bytes(8 * MANY))),
    "claimed tensors": (2**58, 0, bytes(8 * MANY)),
}


@pytest.mark.parametrize("name", GREEDY_GGUF)
def test_greedy_gguf_files_get_no_more_than_their_share(tmp_path: Path, bounded: Bound, name: str) -> None:
    num_tensors, num_pairs, body = GREEDY_GGUF[name]
    path = tmp_path / "greedy.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, num_tensors, num_pairs) + body)
    with bounded(path.stat().st_size), contextlib.suppress(MohistError):
        open_checkpoint(path)


def tiny_entries(count: int) -> str:
    return ",".join(f'"{i:04x}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count))


GREEDY_HEADERS = {
    "arrays in arrays": '{"a":{"b":[' + "[]," * MANY + "0]}}",
    "numbers": '{"a":{"shape":[' + "-9," * MANY + "0]}}",
    "objects": '{"a":' * MANY,
    "metadata": json.dumps({"__metadata__": {f"{i:04x}": "" for i in range(MANY)}}),
    "entries": "{" + tiny_entries(MANY) + "}",
    "wide entries": '{"😀":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},' + tiny_entries(MANY) + "}",
    "spaces": "{" + " " * 20 * MANY,
    "escapes": '{"' + "\\n" * 10 * MANY + '":{}}',
    "backslashes": '{"' + "\\" * 20 * MANY,
}


@pytest.mark.parametrize("name", GREEDY_HEADERS)
def test_greedy_safetensors_headers_get_no_more_than_their_share(
    tmp_path: Path, bounded: Bound, name: str
) -> None:
    header = GREEDY_HEADERS[name].encode()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with bounded(len(header)), contextlib.suppress(MohistError):
        open_checkpoint(tmp_path)


def test_there_are_ten_thousand_cases_without_the_real_model() -> None:
    assert GGUF_CASES + SAFETENSORS_CASES + JSON_CASES >= 10_000
