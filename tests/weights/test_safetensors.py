"""Model folders: what we write others read, what others write we read, and damaged ones are named."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mohist.errors import WeightsError
from mohist.weights.checkpoint import save_safetensors
from mohist.weights.formats import Format, TensorInfo
from mohist.weights.safetensors import SafetensorsCheckpoint

CONFIG = {"model_type": "llama", "hidden_size": 4, "名": "墨"}


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.embed": torch.randn(6, 4, generator=generator).bfloat16(),
        "model.norm": torch.randn(4, generator=generator),
        "model.half": torch.randn(3, 5, generator=generator).half(),
        "model.odd": torch.randn(3, generator=generator).bfloat16(),
        "model.scalar": torch.tensor(2.5),
        "model.empty": torch.zeros(0, 4),
        "model.transposed": torch.randn(4, 6, generator=generator).T,
    }


def write_file(path: Path, header: dict[str, Any] | bytes, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a config and no weights yet."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize("max_shard_bytes", [10**9, 64])
def test_what_is_saved_is_opened(tmp_path: Path, max_shard_bytes: int) -> None:
    tensors = some_tensors()
    save_safetensors(tmp_path, tensors, config=CONFIG, max_shard_bytes=max_shard_bytes)
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert checkpoint.config == CONFIG
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        raw = checkpoint.read(name)
        assert raw.info.shape == tuple(tensor.shape)
        assert raw.data.dtype == tensor.dtype
        assert torch.equal(raw.data, tensor)


def test_the_safetensors_library_reads_our_files_and_we_read_its(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.torch")
    tensors = {name: tensor.contiguous() for name, tensor in some_tensors().items()}
    save_safetensors(tmp_path / "ours", tensors, config=CONFIG)
    theirs = library.load_file(tmp_path / "ours/model.safetensors")
    assert theirs.keys() == tensors.keys()
    assert all(torch.equal(theirs[name], tensor) for name, tensor in tensors.items())

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/config.json").write_text("{}")
    library.save_file(
        tensors, tmp_path / "theirs/model.safetensors", metadata={"a": 'quote " brace } [', "b": "\\"}
    )
    ours = SafetensorsCheckpoint(tmp_path / "theirs")
    assert ours.tensors.keys() == tensors.keys()
    assert all(torch.equal(ours.read(name).data, tensor) for name, tensor in tensors.items())


@pytest.mark.parity
@pytest.mark.parametrize("max_shard_bytes", [10**9, 3000])
def test_transformers_opens_our_folders(tmp_path: Path, max_shard_bytes: int) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    tensors = model.state_dict()
    stated = {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    save_safetensors(tmp_path, tensors, config=stated, max_shard_bytes=max_shard_bytes)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.state_dict().keys() == tensors.keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in tensors.items())


def test_shards_are_named_and_indexed_the_hugging_face_way(tmp_path: Path) -> None:
    tensors = {f"w{index}": torch.full((8,), float(index)) for index in range(5)}
    save_safetensors(tmp_path, tensors.items(), config=CONFIG, max_shard_bytes=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 160}
    assert index["weight_map"]["w3"] == "model-00002-of-00003.safetensors"


def test_saving_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_safetensors(tmp_path / name, some_tensors(), config=CONFIG, max_shard_bytes=100)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 16])
def test_a_save_that_fails_leaves_nothing_that_opens_and_can_be_repeated(
    tmp_path: Path, max_shard_bytes: int
) -> None:
    def breaks() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.zeros(4)
        yield "b", torch.zeros(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_safetensors(tmp_path, breaks(), config=CONFIG, max_shard_bytes=max_shard_bytes)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(WeightsError, match=r"has no \.safetensors file"):
        SafetensorsCheckpoint(tmp_path)
    (tmp_path / ".shard-7").write_bytes(b"left by a killed save")
    save_safetensors(tmp_path, {"a": torch.ones(4)}, config=CONFIG)
    assert SafetensorsCheckpoint(tmp_path).read("a").data.tolist() == [1, 1, 1, 1]
    assert not (tmp_path / ".shard-7").exists()


def test_saving_refuses_what_it_would_spoil(tmp_path: Path) -> None:
    save_safetensors(tmp_path, {"a": torch.ones(4)}, config=CONFIG)
    with pytest.raises(WeightsError, match=r"holds a model already \(model.safetensors\)"):
        save_safetensors(tmp_path, {"a": torch.zeros(4)}, config=CONFIG)
    assert SafetensorsCheckpoint(tmp_path).read("a").data.tolist() == [1, 1, 1, 1]
    twice = [("a", torch.ones(1)), ("a", torch.ones(1))]
    for tensors, message in [
        (twice, "second tensor named 'a'"),
        ([("__metadata__", torch.ones(1))], "named '__metadata__'"),
        ([("i", torch.ones(1, dtype=torch.int64))], "tensor 'i': torch.int64 is no weight format"),
    ]:
        with pytest.raises(WeightsError, match=message):
            save_safetensors(tmp_path / "new", tensors, config=CONFIG)


HEADERS = {
    "short file": (b"\1\2\3", "claims a header of"),
    "huge header": (struct.pack("<Q", 2**62) + b"{}", "claims a header of 4,611,686,018,427,387,904"),
    "beyond the file": (struct.pack("<Q", 100) + b"{}", "claims a header of 100 bytes in 10"),
    "not an object": (b"[]", "does not begin with"),
    "not UTF-8": (b'{"\xff":1}', "not UTF-8"),
    "unfinished": (b'{"a":{"dtype":"F32"', "malformed at byte 9"),
    "nested": (b'{"a":{"dtype":{"b":[[[[]]]]}}}', "malformed"),
    "deep": (b'{"a":' * 50_000, "malformed"),
    "goes on": (b'{"__metadata__":{}} {}', "goes on after its end"),
    "bad escape": (b'{"\\x":{}}', "malformed name"),
    "no entry": (b'{"a":{}}', "needs exactly dtype, shape and data_offsets"),
    "number": (b'{"a":5}', "malformed"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_malformed_headers_are_refused(folder: Path, name: str) -> None:
    header, message = HEADERS[name]
    path = folder / "model.safetensors"
    if header[:1] in b"{[":
        write_file(path, header)
    else:
        path.write_bytes(header)
    with pytest.raises(WeightsError, match=message) as caught:
        SafetensorsCheckpoint(folder)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 600


ENTRIES = {
    "past the end": ({"a": entry(0, 64, [16])}, 32, "has 1.. bytes, but its header describes"),
    "trailing bytes": ({"a": entry(0, 32, [8])}, 64, "but its header describes"),
    "hole": ({"a": entry(0, 32, [8]), "b": entry(64, 96, [8])}, 96, "'b' at 64 leaves a hole before it"),
    "overlap": (
        {"a": entry(0, 32, [8]), "b": entry(16, 48, [8])},
        48,
        "'b' at 16 overlaps the tensor before it",
    ),
    "wrong size": (
        {"a": entry(0, 32, [9])},
        32,
        r"as f32 of shape \[9\] takes 36 bytes, but its range is 0 to 32",
    ),
    "backwards": ({"a": entry(32, 0, [8])}, 32, "its range is 32 to 0"),
    "overflow": ({"a": entry(0, 32, [2**40] * 5)}, 32, "takes 6,427,"),
    "negative shape": ({"a": entry(0, 32, [-8])}, 32, "impossible shape or range"),
    "float shape": ({"a": {**entry(0, 32, []), "shape": [8.0]}}, 32, "impossible shape or range"),
    "boolean shape": ({"a": {**entry(0, 32, []), "shape": [True]}}, 32, "impossible shape or range"),
    "one offset": ({"a": {**entry(0, 32, [8]), "data_offsets": [0]}}, 32, "impossible shape or range"),
    "extra key": ({"a": {**entry(0, 32, [8]), "more": 1}}, 32, "needs exactly dtype, shape and data_offsets"),
    "long shape": ({"a": entry(0, 4, [1] * 600)}, 4, "needs exactly dtype, shape and data_offsets"),
    "other dtype": (
        {"a": entry(0, 32, [16], "I16")},
        32,
        "dtype 'I16'; Mohist reads F32, F16, BF16",
    ),
    "no dtype": ({"a": {**entry(0, 32, [8]), "dtype": 3}}, 32, "dtype 3"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_impossible_tensors_are_refused(folder: Path, name: str) -> None:
    header, num_bytes, message = ENTRIES[name]
    write_file(folder / "model.safetensors", header, bytes(num_bytes))
    with pytest.raises(WeightsError, match=message):
        SafetensorsCheckpoint(folder)


def test_a_name_that_occurs_twice_is_refused(folder: Path) -> None:
    item = json.dumps(entry(0, 4, [1]))
    write_file(folder / "model.safetensors", f'{{"a":{item},"a":{item}}}'.encode(), bytes(4))
    with pytest.raises(WeightsError, match="tensor 'a' occurs twice"):
        SafetensorsCheckpoint(folder)


def test_an_empty_header_and_white_space_are_fine(folder: Path) -> None:
    write_file(folder / "model.safetensors", b"{ }   ")
    assert SafetensorsCheckpoint(folder).tensors == {}
    item = json.dumps(entry(0, 4, [1]), indent=3)
    write_file(
        folder / "model.safetensors", f'{{ \n "a" :\t{item} , "__metadata__" : {{}} }}  '.encode(), bytes(4)
    )
    assert SafetensorsCheckpoint(folder).read("a").data.tolist() == [0]


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        ".safetensors",
        7,
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(folder: Path, name: object) -> None:
    write_file(folder.parent / "secret.safetensors", {"a": entry(0, 4, [1])}, bytes(4))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(
        WeightsError, match=r"puts tensor 'a' in .* which is no name of a \.safetensors file in"
    ):
        SafetensorsCheckpoint(folder)


def test_an_index_must_agree_with_its_shards(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(WeightsError, match="has no 'weight_map' object"):
        SafetensorsCheckpoint(folder)
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    write_file(folder / "one.safetensors", {"a": entry(0, 4, [1])}, bytes(4))
    with pytest.raises(WeightsError, match=r"two\.safetensors: cannot be opened"):
        SafetensorsCheckpoint(folder)
    write_file(folder / "two.safetensors", {"c": entry(0, 4, [1])}, bytes(4))
    with pytest.raises(WeightsError, match=r"two\.safetensors: lacks tensor 'b'"):
        SafetensorsCheckpoint(folder)
    write_file(folder / "two.safetensors", {"a": entry(0, 4, [1]), "b": entry(4, 8, [1])}, bytes(8))
    with pytest.raises(WeightsError, match=r"tensor 'a' is in one\.safetensors as well"):
        SafetensorsCheckpoint(folder)
    write_file(folder / "two.safetensors", {"b": entry(0, 4, [1])}, bytes(4))
    assert set(SafetensorsCheckpoint(folder).tensors) == {"a", "b"}


def test_pickles_are_never_opened(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02cposix\nsystem\n.")
    with pytest.raises(WeightsError, match=r"weights are pickles .* take a release with \.safetensors files"):
        SafetensorsCheckpoint(folder)


def test_which_file_is_the_model_must_be_clear(folder: Path) -> None:
    write_file(folder / "one.safetensors", {"a": entry(0, 4, [1])}, bytes(4))
    assert set(SafetensorsCheckpoint(folder).tensors) == {"a"}
    write_file(folder / "two.safetensors", {"b": entry(0, 4, [1])}, bytes(4))
    with pytest.raises(
        WeightsError, match=r"has 2 \.safetensors files but no model\.safetensors\.index\.json"
    ):
        SafetensorsCheckpoint(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"[]", "holds a JSON list, not an object"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
        (b" " * (9 << 20), "too large for this file"),
    ],
)
def test_a_config_must_be_json(folder: Path, config: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(config)
    with pytest.raises(WeightsError, match=rf"config\.json: .*{message}"):
        SafetensorsCheckpoint(folder)


# FP8 with block scales.


def fp8_folder(
    folder: Path,
    rows: int,
    columns: int,
    *,
    block: list[int] | None = None,
    scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Save one FP8 matrix with its scales; returns what it stands for, computed value by value in float64."""
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn(rows, columns, generator=generator).mul(100).to(torch.float8_e4m3fn)
    height, width = block or [128, 128]
    if scale is None:
        scale = torch.rand(-(-rows // height), -(-columns // width), generator=generator) + 0.01
    quantization: dict[str, Any] = {"quant_method": "fp8"}
    if block:
        quantization["weight_block_size"] = block
    tensors = {"q.weight": stored, "q.weight_scale_inv": scale, "norm": torch.ones(2)}
    save_safetensors(folder, tensors, config={**CONFIG, "quantization_config": quantization})
    row, column = torch.arange(rows) // height, torch.arange(columns) // width
    if scale.dim() != 2 or row[-1] >= scale.shape[0] or column[-1] >= scale.shape[1]:
        return torch.empty(0)
    return (stored.double() * scale.double()[row][:, column]).float()


@pytest.mark.parametrize(
    ("rows", "columns", "block"),
    [
        (256, 384, None),
        (130, 257, None),
        (1, 1, None),
        (576, 200, [128, 128]),
        (70, 50, [32, 16]),
        (9, 9, [512, 2**60]),
    ],
)
def test_fp8_blocks_are_multiplied_by_their_scales(
    tmp_path: Path, rows: int, columns: int, block: list[int] | None
) -> None:
    expected = fp8_folder(tmp_path, rows, columns, block=block)
    checkpoint = SafetensorsCheckpoint(tmp_path)
    assert checkpoint.tensors == {
        "q.weight": TensorInfo("q.weight", Format.F8_E4M3, (rows, columns)),
        "norm": TensorInfo("norm", Format.F32, (2,)),
    }
    raw = checkpoint.read("q.weight")
    assert raw.info == TensorInfo("q.weight", Format.F32, (rows, columns))
    assert torch.equal(raw.data, expected)


@pytest.mark.parametrize(
    ("scale", "block", "message"),
    [
        (torch.ones(2, 2), None, r"shape \[200, 300\] needs float scales of shape \[2, 3\]"),
        (torch.ones(6), None, r"needs float scales of shape \[2, 3\]"),
        (torch.ones(2, 3).to(torch.float8_e4m3fn), None, "is f8_e4m3"),
        (None, [0, 128], r"weight_block_size = \[0, 128\]"),
        (None, [128], r"weight_block_size = \[128\]"),
    ],
)
def test_scales_that_do_not_fit_are_refused(
    tmp_path: Path, scale: torch.Tensor | None, block: list[int] | None, message: str
) -> None:
    fp8_folder(tmp_path, 200, 300, scale=torch.ones(2, 3) if scale is None else scale)
    if block:
        config = {"quantization_config": {"weight_block_size": block}}
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_fp8_without_scales_is_refused_where_the_config_promises_some(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(4, 4).to(torch.float8_e4m3fn), "w_scale": torch.ones(1)}
    config = {"quantization_config": {"quant_method": "compressed-tensors"}}
    save_safetensors(tmp_path / "scaled", tensors, config=config)
    with pytest.raises(WeightsError, match="FP8 tensor 'w' has no 'w_scale_inv' beside it"):
        SafetensorsCheckpoint(tmp_path / "scaled")
    save_safetensors(tmp_path / "plain", tensors, config={})
    raw = SafetensorsCheckpoint(tmp_path / "plain").read("w")
    assert raw.info.format == Format.F8_E4M3
