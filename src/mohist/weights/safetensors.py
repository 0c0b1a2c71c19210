"""Hugging Face model folders: `config.json` and safetensors weights, in one file or in shards with an index.

A safetensors file (https://github.com/huggingface/safetensors#format) is an 8-byte little-endian length, a
JSON header of that length that names every tensor's dtype, shape and byte range, and the bytes. A file is
untrusted: the header is matched against the format's own small grammar before any of it becomes Python
objects, since arbitrary JSON can take 20 times its size in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mohist.errors import WeightsError
from mohist.weights.files import WeightFile, read_json
from mohist.weights.formats import Format, RawTensor, TensorInfo, read_buffers
from mohist.weights.packed import find_packed

__all__ = ["SafetensorsCheckpoint"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
CONFIG_NAME = "config.json"
METADATA_KEY = "__metadata__"

DTYPES = {
    "F32": Format.F32,
    "F16": Format.F16,
    "BF16": Format.BF16,
    "F8_E4M3": Format.F8_E4M3,
    "F8_E8M0": Format.F8_E8M0,
    "U8": Format.U8,
    "I32": Format.I32,
    "I64": Format.I64,
}
"""The header's names of the formats that we read and write."""

_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_CONFIG_BYTES = 8 << 20
_MAX_INDEX_BYTES = 64 << 20  # DeepSeek-V3's, with 91,000 tensors, has 9 MB

_SPACE = r"[ \t\r\n]*+"
_TEXT = r'"(?:[^"\\\x00-\x1f]++|\\.)*+"'
_FLAT = rf"\{{(?:[^{{}}\[\]\"]++|\[[^{{}}\[\]\"]*+\]|{_TEXT})*+\}}"  # an object with no objects in it
_ITEM = re.compile(rf"{_SPACE}({_TEXT}){_SPACE}:{_SPACE}({_FLAT}){_SPACE}([,}}])")
_EMPTY = re.compile(rf"\{{{_SPACE}\}}{_SPACE}")
_PAIR = rf"{_SPACE}{_TEXT}{_SPACE}:{_SPACE}{_TEXT}{_SPACE}"
_METADATA = re.compile(rf"\{{(?:{_PAIR}(?:,{_PAIR})*+)?\}}|{_EMPTY.pattern}")
_MAX_ENTRY_CHARS = 1024  # a real one has about 70

_REFETCH = "the file is truncated or corrupt: fetch it again"


class SafetensorsCheckpoint:
    """A model folder, its headers read and checked.

    `config` is the content of config.json. A packed tensor (see `mohist.weights.packed`) appears in `tensors`
    once, with the format of its codes and the shape of its values; `read` unpacks it, to F32 or BF16.
    """

    kind: Literal["safetensors"] = "safetensors"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config: dict[str, Any] = read_json(path / CONFIG_NAME, max_bytes=_MAX_CONFIG_BYTES)
        self._stored: dict[str, _Stored] = {}
        self._buffers = read_buffers()
        for shard, names in _shards(path):
            self._add(shard, names)
        stored = {name: info for name, (info, _, _) in self._stored.items()}
        self._packed = find_packed(path, self.config, stored)
        parts = {part for packed in self._packed.values() for part in packed.parts}
        whole = {name: info for name, info in stored.items() if name not in parts}
        self.tensors: Mapping[str, TensorInfo] = whole | {
            name: packed.info for name, packed in self._packed.items()
        }

    def read(self, name: str) -> RawTensor:
        """One tensor, read into fresh memory. Raises WeightsError when there is none of that name."""
        if name not in self.tensors:
            raise WeightsError(f"{self.path}: holds no tensor {name!r}")
        packed = self._packed.get(name)
        return self._read(name) if packed is None else packed.unpack(*map(self._read, packed.parts))

    def _read(self, name: str) -> RawTensor:
        """A tensor as it is stored."""
        info, file, offset = self._stored[name]
        return RawTensor.read(file, info, offset, self._buffers)

    def _add(self, shard: Path, names: set[str] | None) -> None:
        file = WeightFile.of(shard)
        here = read_header(file)
        missing = (names or set()) - here.keys()
        if missing:
            raise WeightsError(
                f"{shard}: lacks tensor {min(missing)!r}, which {INDEX_NAME} says is in it; "
                "index and shards are of different versions: fetch the folder again"
            )
        for name, (info, offset) in here.items():
            if name in self._stored:
                other = self._stored[name][1].path.name
                raise WeightsError(f"{shard}: tensor {name!r} is in {other} as well; fetch the folder again")
            self._stored[name] = (info, file, offset)


_Stored = tuple[TensorInfo, WeightFile, int]
"""A tensor, the file that it is in, and the offset of its first byte in that file."""


def read_header(file: WeightFile) -> dict[str, tuple[TensorInfo, int]]:
    """The tensors of one safetensors file and where their bytes begin in it."""
    with file.open() as opened:
        length_bytes = opened.read(8)
        num_bytes = int.from_bytes(length_bytes, "little")
        if len(length_bytes) < 8 or not 2 <= num_bytes <= min(file.num_bytes - 8, _MAX_HEADER_BYTES):
            raise WeightsError(
                f"{file.path}: claims a header of {num_bytes:,} bytes in {file.num_bytes:,}; {_REFETCH}"
            )
        header = opened.read(num_bytes)
    try:
        text = header.decode()
    except UnicodeDecodeError as error:
        raise WeightsError(f"{file.path}: header is not UTF-8; {_REFETCH}") from error
    described = {}
    for key, value in _items(file.path, text):
        if key in described:
            raise WeightsError(f"{file.path}: tensor {key!r:.100} occurs twice; {_REFETCH}")
        described[key] = _entry(file.path, key, value)
    return _place(file, described, 8 + num_bytes)


def _items(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """The header's names and objects, the objects still as text."""
    position = 1
    if _EMPTY.fullmatch(text):
        return
    if not text.startswith("{"):
        raise WeightsError(f"{path}: header does not begin with '{{'; {_REFETCH}")
    separator = ","
    while separator == ",":
        match = _ITEM.match(text, position)
        if match is None:
            raise WeightsError(f"{path}: header is malformed at byte {8 + position:,}; {_REFETCH}")
        name, value, separator = match.groups()
        position = match.end()
        try:
            key = json.loads(name)
            key.encode()
        except ValueError as error:  # an unknown escape, or half of a surrogate pair
            raise WeightsError(f"{path}: header has a malformed name {name:.100}; {_REFETCH}") from error
        if key != METADATA_KEY:
            yield key, value
        elif not _METADATA.fullmatch(value):
            raise WeightsError(f"{path}: {METADATA_KEY} holds something other than strings; {_REFETCH}")
    if text[position:].strip(" \t\r\n"):
        raise WeightsError(f"{path}: header goes on after its end, at byte {8 + position:,}; {_REFETCH}")


def _entry(path: Path, name: str, text: str) -> tuple[TensorInfo, int, int]:
    """A tensor and the begin and end of its bytes, relative to the data section."""
    try:
        entry = json.loads(text) if len(text) <= _MAX_ENTRY_CHARS else None
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        fault = f"needs exactly dtype, shape and data_offsets, not {text:.100}"
        raise _entry_error(path, name, fault)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise _entry_error(path, name, f"has an impossible shape or range: {text:.100}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        advice = "take the unquantised or the FP8 release of this model, or a GGUF file of it"
        fault = f"has dtype {dtype!r:.40}; Mohist reads {', '.join(DTYPES)}"
        raise _entry_error(path, name, fault, advice)
    info = TensorInfo(name, DTYPES[dtype], tuple(shape))
    begin, end = offsets
    if end - begin != info.num_bytes:
        fault = f"of shape {shape} takes {info.num_bytes:,} bytes, but its range is {begin:,} to {end:,}"
        raise _entry_error(path, name, f"as {info.format} {fault}")
    return info, begin, end


def _entry_error(path: Path, name: str, fault: str, advice: str = _REFETCH) -> WeightsError:
    return WeightsError(f"{path}: tensor {name!r:.100} {fault}; {advice}")


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _place(
    file: WeightFile, described: Mapping[str, tuple[TensorInfo, int, int]], data_begin: int
) -> dict[str, tuple[TensorInfo, int]]:
    """Check that the ranges tile the data section exactly, as the format demands."""
    taken = 0
    for info, begin, end in sorted(described.values(), key=lambda item: item[1:]):
        if begin != taken:
            fault = "overlaps the tensor before it" if begin < taken else "leaves a hole before it"
            raise WeightsError(f"{file.path}: tensor {info.name!r} at {begin:,} {fault}; {_REFETCH}")
        taken = end
    if data_begin + taken != file.num_bytes:
        raise WeightsError(
            f"{file.path}: has {file.num_bytes:,} bytes, but its header describes {data_begin + taken:,}; "
            + _REFETCH
        )
    return {name: (info, data_begin + begin) for name, (info, begin, _) in described.items()}


def _shards(folder: Path) -> list[tuple[Path, set[str] | None]]:
    """The weight files of a folder, each with the tensors that the index says are in it."""
    if (folder / WEIGHTS_NAME).exists() or not (folder / INDEX_NAME).exists():
        return [(_only_file(folder), None)]
    index = folder / INDEX_NAME
    weight_map = read_json(index, max_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise WeightsError(f"{index}: has no 'weight_map' object; fetch it again")
    shards: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*\.safetensors", file):
            raise WeightsError(
                f"{index}: puts tensor {name!r:.100} in {file!r:.100}, which is no name of a .safetensors "
                "file in this folder; do not use this model unless you trust where it came from"
            )
        shards.setdefault(file, set()).add(name)
    return [(folder / file, names) for file, names in sorted(shards.items())]


def _only_file(folder: Path) -> Path:
    if (folder / WEIGHTS_NAME).exists():
        return folder / WEIGHTS_NAME
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        raise WeightsError(
            f"{folder}: has {len(files)} .safetensors files but no {INDEX_NAME}, which says what is in "
            "which of them; fetch it too"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        raise WeightsError(
            f"{folder}: its weights are pickles (.bin, .pt, .pth), which can run any code when opened, so "
            "Mohist never opens them; take a release with .safetensors files"
        )
    raise WeightsError(f"{folder}: has no .safetensors file")
