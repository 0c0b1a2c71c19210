"""The GGUF reader: agrees with the gguf package on sound files, and says what is wrong with the others."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mohist.errors import WeightsError
from mohist.weights.formats import Format, RawTensor, TensorInfo
from mohist.weights.gguf import GgufCheckpoint
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.quants import dequantize, quantize

U8, U32, BOOL, STRING, ARRAY, U64 = 0, 4, 7, 8, 9, 10
F32, Q8_0 = 0, 8
Build = Callable[..., Path]


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def test_what_is_written_is_read(tiny_gguf: Path) -> None:
    checkpoint = GgufCheckpoint(tiny_gguf)
    assert checkpoint.kind == "gguf"
    assert checkpoint.path == tiny_gguf
    assert checkpoint.config["general.architecture"] == "llama"
    assert checkpoint.config["llama.rope.freq_base"] == 100000.0
    assert checkpoint.config["tokenizer.ggml.add_bos_token"] is False
    assert checkpoint.config["tokenizer.ggml.tokens"][2:5] == ["Ġthe", "墨", "子"]
    types = checkpoint.config["tokenizer.ggml.token_type"]
    assert types.dtype == np.uint32
    assert types.tolist() == [3, 3, *[1] * 33]
    assert list(checkpoint.tensors)[:3] == [
        "token_embd.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
    ]
    assert checkpoint.tensors["token_embd.weight"] == TensorInfo("token_embd.weight", Format.Q8_0, (8, 64))
    for name, info in checkpoint.tensors.items():
        raw = checkpoint.read(name)
        assert raw.info == info
        assert dequantize(raw).isfinite().all()
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(8, 64, generator=generator)
    assert torch.equal(checkpoint.read("token_embd.weight").data, quantize(embedding, Format.Q8_0).data)


@pytest.mark.parity
def test_the_gguf_package_reads_our_files(tiny_gguf: Path) -> None:
    gguf = pytest.importorskip("gguf")
    theirs = gguf.GGUFReader(tiny_gguf)
    ours = GgufCheckpoint(tiny_gguf)
    assert [tensor.name for tensor in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        raw = ours.read(tensor.name)
        assert tuple(tensor.shape.tolist()[::-1]) == raw.info.shape
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(dequantize(raw).numpy(), values.reshape(raw.info.shape))
    for key, value in ours.config.items():
        assert list_of(theirs.fields[key].contents()) == list_of(value), key


@pytest.mark.parity
def test_we_read_files_of_the_gguf_package(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint64("big", 2**63)
    writer.add_int64("low", -(2**40))
    writer.add_float64("double", 0.1)
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("flags", [True, False])
    writer.add_custom_alignment(64)
    matrices = {
        "experts": np.random.default_rng(0).standard_normal((3, 5, 64), dtype=np.float32),
        "norm": np.arange(7, dtype=np.float32),
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    }
    for name, matrix in matrices.items():
        writer.add_tensor(name, matrix)
    quantised = gguf.quants.quantize(matrices["experts"], gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("quantised", quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    ours = GgufCheckpoint(path)
    assert (ours.config["big"], ours.config["low"], ours.config["double"]) == (2**63, -(2**40), 0.1)
    assert ours.config["floats"].tolist() == [0.5, 1.5]
    assert ours.config["flags"].tolist() == [True, False]
    assert ours.config["general.alignment"] == 64
    for name, matrix in matrices.items():
        np.testing.assert_array_equal(ours.read(name).data.numpy(), matrix)
    raw = ours.read("quantised")
    assert raw.info == TensorInfo("quantised", Format.Q8_0, (3, 5, 64))
    assert raw.data.shape == (15, 68)
    np.testing.assert_array_equal(raw.data.numpy(), quantised.reshape(15, 68))


def test_version_2_and_files_without_tensors_are_read(gguf_bytes: Build) -> None:
    path = gguf_bytes([("a", STRING, text("b"))], head=b"GGUF" + struct.pack("<IQQ", 2, 0, 1), pad=False)
    checkpoint = GgufCheckpoint(path)
    assert checkpoint.config == {"a": "b"}
    assert checkpoint.tensors == {}


def test_the_last_tensor_needs_no_padding(gguf_bytes: Build) -> None:
    path = gguf_bytes([], [("t", [3], F32, 0)], data=np.arange(3, dtype="<f4").tobytes())
    assert GgufCheckpoint(path).read("t").data.tolist() == [0, 1, 2]


HOSTILE_HEADERS = {
    "no magic": (b"PK\3\4" + bytes(40), "is no GGUF file"),
    "empty": (b"", "needs bytes up to 4, but the file has 0"),
    "only magic": (b"GGUF", "needs bytes up to 8"),
    "version 1": (b"GGUF" + struct.pack("<III", 1, 0, 0), "version 1; Mohist reads 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensor count": (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "claims 9,223,372,036,854,775,808 tensors"),
    "pair count": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "claims 1,099,511,627,776 metadata pairs"),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers_are_refused(gguf_bytes: Build, name: str) -> None:
    head, message = HOSTILE_HEADERS[name]
    with pytest.raises(WeightsError, match=message):
        GgufCheckpoint(gguf_bytes(head=head, pad=False))


HOSTILE_PAIRS = {
    "long string": ([("k", STRING, struct.pack("<Q", 2**62))], "metadata 'k'.*needs bytes up to"),
    "long key": ([("k" * 70_000, U8, b"\1")], "name of 70,000 bytes"),
    "bad key": ([(b"\xff\xfe", U8, b"\1")], "metadata pair 0.*not UTF-8"),
    "bad text": ([("k", STRING, text(b"\xc3\x28"))], "metadata 'k'.*not UTF-8"),
    "bad text in array": (
        [("k", ARRAY, struct.pack("<IQ", STRING, 2) + text("ok") + text(b"\xff"))],
        "not UTF-8",
    ),
    "unknown type": ([("k", 13, b"\0" * 8)], "unknown value type 13"),
    "array of arrays": ([("k", ARRAY, struct.pack("<IQIQ", ARRAY, 1, ARRAY, 1))], "unknown value type 9"),
    "array count": (
        [("k", ARRAY, struct.pack("<IQ", U64, 2**61))],
        "claims 2,305,843,009,213,693,952 numbers",
    ),
    "string count": ([("k", ARRAY, struct.pack("<IQ", STRING, 10**6))], "claims 1,000,000 strings"),
    "string in array": (
        [("k", ARRAY, struct.pack("<IQQ", STRING, 2, 2**60) + bytes(64))],
        "metadata 'k'.*needs bytes up to",
    ),
    "boolean": ([("k", BOOL, b"\2")], "neither 0 nor 1"),
    "booleans": ([("k", ARRAY, struct.pack("<IQ", BOOL, 3) + b"\0\1\7")], "neither 0 nor 1"),
    "twice": ([("k", U8, b"\1"), ("k", U8, b"\1")], "metadata 'k'.*occurs twice"),
    "alignment": (
        [("general.alignment", U32, struct.pack("<I", 24))],
        "general.alignment = 24 is no power of two",
    ),
    "no alignment": ([("general.alignment", U32, struct.pack("<I", 0))], "general.alignment = 0"),
    "alignment type": ([("general.alignment", STRING, text("32"))], "general.alignment = '32'"),
    "parts": ([("split.count", U32, struct.pack("<I", 3))], "is one of 3 parts; join them"),
}


@pytest.mark.parametrize("name", HOSTILE_PAIRS)
def test_hostile_metadata_is_refused(gguf_bytes: Build, name: str) -> None:
    pairs, message = HOSTILE_PAIRS[name]
    path = gguf_bytes(pairs)
    with pytest.raises(WeightsError, match=message) as caught:
        GgufCheckpoint(path)
    assert str(path) in str(caught.value)


HOSTILE_TENSORS = {
    "no dimension": ([("t", [], F32, 0)], "has 0 dimensions"),
    "five dimensions": ([("t", [1] * 5, F32, 0)], "has 5 dimensions; 1 to 4"),
    "empty": ([("t", [4, 0], F32, 0)], r"f32 rows in shape \[0, 4\]"),
    "half a block": ([("t", [48, 2], Q8_0, 0)], r"cannot have q8_0 rows in shape \[2, 48\]"),
    "product overflow": ([("t", [2**32, 2**32, 2**32, 2**32], F32, 0)], "ends beyond the file"),
    "beyond the file": ([("t", [64], F32, 0)], r"tensor 't' \(offset 0, 256 bytes\) ends beyond the file"),
    "offset": ([("t", [8], F32, 2**63)], "ends beyond the file"),
    "unaligned": ([("t", [8], F32, 4)], "does not begin at a multiple of 32"),
    "overlap": ([("a", [16], F32, 0), ("b", [8], F32, 32)], "tensor 'b'.*overlaps the tensor before it"),
    "same bytes": ([("a", [8], F32, 0), ("b", [8], F32, 0)], "overlaps"),
    "twice": ([("a", [8], F32, 0), ("a", [8], F32, 32)], "tensor 'a'.*occurs twice"),
    "other format": ([("t", [256], 10, 0)], "stored as Q2_K; Mohist reads F32, .*take another quantisation"),
    "unknown format": ([("t", [32], 4, 0)], "stored as type 4"),
}


@pytest.mark.parametrize("name", HOSTILE_TENSORS)
def test_hostile_tensors_are_refused(gguf_bytes: Build, name: str) -> None:
    tensors, message = HOSTILE_TENSORS[name]
    with pytest.raises(WeightsError, match=message):
        GgufCheckpoint(gguf_bytes([], tensors, data=bytes(128)))


def test_every_truncation_is_refused(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    used = max(GgufCheckpoint(tiny_gguf)._offsets.values()) + 4 * 64 * 2
    for length in [*range(0, 200, 7), *range(200, used, 101), used - 1]:
        tiny_gguf.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"tiny\.gguf"):
            GgufCheckpoint(tiny_gguf)


def test_a_file_that_changes_is_noticed(tiny_gguf: Path) -> None:
    checkpoint = GgufCheckpoint(tiny_gguf)
    os.utime(tiny_gguf, ns=(1, 1))
    with pytest.raises(WeightsError, match="changed since it was opened"):
        checkpoint.read("token_embd.weight")
    tiny_gguf.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.read("token_embd.weight")


def test_memory_of_a_tensor_that_is_gone_is_used_for_the_next(tmp_path: Path) -> None:
    values = {name: torch.full((64, 512), float(i)) for i, name in enumerate("abc")}
    write_gguf(tmp_path / "x.gguf", {}, [RawTensor.plain(name, value) for name, value in values.items()])
    checkpoint = GgufCheckpoint(tmp_path / "x.gguf")
    places = set()
    for name in values:
        raw = checkpoint.read(name)
        places.add(raw.data.data_ptr())
        del raw
    assert len(places) == 1
    kept = [checkpoint.read(name) for name in values]
    assert all(torch.equal(raw.data, values[raw.info.name]) for raw in kept)


def test_an_unknown_name_is_an_error(tiny_gguf: Path) -> None:
    with pytest.raises(WeightsError, match="holds no tensor 'nope'"):
        GgufCheckpoint(tiny_gguf).read("nope")


def test_what_gguf_cannot_hold_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    for value in ({"a": 1}, None, 2**64, [1, "a"], np.zeros((2, 2)), np.zeros(2, np.complex64)):
        with pytest.raises(WeightsError, match="metadata 'k': GGUF cannot hold"):
            write_gguf(path, {"k": value}, [])
    for tensor in (torch.zeros(1, 1, 1, 1, 1), torch.zeros(0, 3), torch.zeros(3).to(torch.float8_e4m3fn)):
        with pytest.raises(WeightsError, match=r"tensor 't'.*cannot be in a GGUF file"):
            write_gguf(path, {}, [RawTensor.plain("t", tensor)])
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_is_parsed_fast(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    tokens = [f"Ġtoken{index}" for index in range(100_000)]
    write_gguf(path, {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": [1] * 100_000}, [])
    begin = time.process_time()
    assert GgufCheckpoint(path).config["tokenizer.ggml.tokens"] == tokens
    assert time.process_time() - begin < 0.6  # 0.1 s on a quiet machine


@pytest.mark.real_model
def test_smollm2_is_read(smollm2: Path) -> None:
    begin = time.process_time()
    checkpoint = GgufCheckpoint(smollm2)
    assert time.process_time() - begin < 0.6
    assert len(checkpoint.tensors) == 272
    assert sum(info.num_values for info in checkpoint.tensors.values()) == 134_515_008
    assert len(checkpoint.config["tokenizer.ggml.tokens"]) == 49_152
    assert checkpoint.tensors["token_embd.weight"] == TensorInfo(
        "token_embd.weight", Format.Q8_0, (49152, 576)
    )
    gguf = pytest.importorskip("gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}
    for name in ("blk.0.attn_norm.weight", "blk.29.ffn_down.weight"):
        values = gguf.dequantize(theirs[name].data, theirs[name].tensor_type)
        np.testing.assert_array_equal(dequantize(checkpoint.read(name)).numpy(), values)


def list_of(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
