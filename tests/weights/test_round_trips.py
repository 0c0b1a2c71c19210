"""What is written comes back, whatever it is."""

from __future__ import annotations

import string
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.weights.checkpoint import save_safetensors
from mohist.weights.formats import Format, RawTensor, TensorInfo
from mohist.weights.gguf import GgufCheckpoint
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.safetensors import SafetensorsCheckpoint


@pytest.fixture(autouse=True, scope="module")
def _no_disk_waits() -> Generator[None]:
    """Hundreds of files are written; that their bytes reach the disk is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


GGUF_FORMATS = [format for format in Format if format != Format.F8_E4M3 and not format.is_code]
PLAIN_FORMATS = [format for format in Format if not format.is_block and not format.is_code]

names = st.text(min_size=1, max_size=30).filter(lambda name: name.isprintable() and name != "__metadata__")
texts = st.text(max_size=40)
integers = st.integers(-(2**63), 2**64 - 1)
singles = st.floats(width=32, allow_nan=False)
number_types = st.sampled_from(["u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "<u8", "<i8", "<f8"])
arrays = st.builds(
    lambda data, dtype: np.frombuffer(data, "u1").astype(dtype), st.binary(max_size=64), number_types
)
scalars = st.builds(lambda value, dtype: np.dtype(dtype).type(value), st.integers(0, 100), number_types)
values = st.one_of(texts, st.booleans(), integers, singles, st.lists(texts, max_size=9), arrays, scalars)
metadata = st.dictionaries(st.text(string.ascii_letters + "._", min_size=1), values, max_size=8)
alignments = st.sampled_from([8, 32, 64, 4096])


@st.composite
def stored_tensors(draw: st.DrawFn, formats: list[Format], max_dims: int, min_dim: int) -> list[RawTensor]:
    """Tensors of random bytes, so that every bit pattern of a format occurs."""
    tensors = []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        format = draw(st.sampled_from(formats))
        shape = draw(st.lists(st.integers(min_dim, 4), min_size=1, max_size=max_dims))
        shape[-1] *= format.block_values
        info = TensorInfo(name, format, tuple(shape))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
        data = torch.randint(256, (info.num_bytes,), dtype=torch.uint8, generator=generator)
        layout = (
            (-1, shape[-1] // format.block_values * format.block_bytes) if format.is_block else tuple(shape)
        )
        tensors.append(RawTensor(info, data.view(format.dtype).view(layout)))
    return tensors


def same(ours: Any, given: Any) -> bool:
    if isinstance(given, np.ndarray):
        return ours.dtype == given.dtype and np.array_equal(ours, given)
    if isinstance(given, np.generic):
        given = given.item()
    return type(ours) is type(given) and ours == given


@settings(max_examples=80)
@given(metadata, stored_tensors(GGUF_FORMATS, max_dims=4, min_dim=1), alignments)
def test_gguf(pairs: dict[str, Any], tensors: list[RawTensor], alignment: int) -> None:
    pairs = {**pairs, "general.alignment": alignment}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf(path, pairs, tensors)
        checkpoint = GgufCheckpoint(path)
        assert list(checkpoint.config) == list(pairs)
        assert all(same(checkpoint.config[key], value) for key, value in pairs.items())
        assert list(checkpoint.tensors.values()) == [tensor.info for tensor in tensors]
        for tensor in tensors:
            assert checkpoint._offsets[tensor.info.name] % alignment == 0
            assert checkpoint.read(tensor.info.name).stored_bytes() == tensor.stored_bytes()


@settings(max_examples=80)
@given(stored_tensors(PLAIN_FORMATS, max_dims=5, min_dim=0), st.integers(1, 2000))
def test_safetensors(tensors: list[RawTensor], max_shard_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(tensor.info.name, tensor.data) for tensor in tensors]
        save_safetensors(Path(folder), pairs, config={"a": [1, None]}, max_shard_bytes=max_shard_bytes)
        checkpoint = SafetensorsCheckpoint(Path(folder))
        assert checkpoint.config == {"a": [1, None]}
        assert checkpoint.tensors == {tensor.info.name: tensor.info for tensor in tensors}
        for tensor in tensors:
            assert checkpoint.read(tensor.info.name).stored_bytes() == tensor.stored_bytes()
