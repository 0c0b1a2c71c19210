"""Packed tensors: unpacked to the bits of the reference, and refused where their parts do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mohist.errors import WeightsError
from mohist.weights import mxfp4
from mohist.weights.formats import Format, TensorInfo
from mohist.weights.quants import dequantize
from mohist.weights.safetensors import SafetensorsCheckpoint

Tensors = dict[str, torch.Tensor]


def save(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """A folder with tensors of any type, written by the safetensors library."""
    library = pytest.importorskip("safetensors.torch")
    library.save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# MXFP4.


def mxfp4_tensors(experts: int, rows: int, blocks: int) -> Tensors:
    generator = torch.Generator().manual_seed(experts + rows + blocks)
    codes = torch.randint(256, (experts, rows, blocks, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(256, (experts, rows, blocks), dtype=torch.uint8, generator=generator)
    return {"e.gate_up_proj_blocks": codes, "e.gate_up_proj_scales": scales}


@pytest.mark.parity
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 10, 5), (2, 4096, 3)])
def test_mxfp4_unpacks_to_the_bits_of_transformers(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    """Every code and every exponent occurs, NaN among them."""
    reference = pytest.importorskip("transformers.integrations.mxfp4")
    tensors = mxfp4_tensors(*shape)
    experts, rows, blocks = shape
    checkpoint = SafetensorsCheckpoint(save(tmp_path, tensors, model_type="gpt_oss"))
    info = TensorInfo("e.gate_up_proj", Format.MXFP4, (experts, 32 * blocks, rows))
    assert checkpoint.tensors == {"e.gate_up_proj": info}
    raw = checkpoint.read("e.gate_up_proj")
    assert raw.info == TensorInfo("e.gate_up_proj", Format.BF16, info.shape)
    theirs = reference.convert_moe_packed_tensors(*tensors.values())
    assert torch.equal(raw.data.view(torch.int16), theirs.contiguous().view(torch.int16))


def test_mxfp4_by_its_definition(tmp_path: Path) -> None:
    """Low half first, e2m1 values, a bias of 127."""
    codes = torch.zeros(1, 2, 1, 16, dtype=torch.uint8)
    codes[0, 0, 0, :8] = torch.tensor([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE], dtype=torch.uint8)
    scales = torch.tensor([[[128], [0]]], dtype=torch.uint8)
    folder = save(tmp_path, {"w_blocks": codes, "w_scales": scales})
    values = SafetensorsCheckpoint(folder).read("w").data
    positive = [0, 1, 2, 3, 4, 6, 8, 12]
    assert values[0, :16, 0].tolist() == [*positive, *(-value for value in positive)]
    assert not values[0, 16:].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"e.gate_up_proj_scales": None}, "first three axes, not none"),
        ({"e.gate_up_proj_scales": torch.zeros(2, 4, 2, dtype=torch.uint8)}, r"not u8 \[2, 4, 2\]"),
        ({"e.gate_up_proj_scales": torch.zeros(2, 4, 3)}, r"not f32 \[2, 4, 3\]"),
        ({"e.gate_up_proj_blocks": torch.zeros(2, 4, 3, 8, dtype=torch.uint8)}, r"needs the shape"),
        ({"e.gate_up_proj_blocks": torch.zeros(4, 3, 16, dtype=torch.uint8)}, r"needs the shape"),
        ({"e.gate_up_proj": torch.zeros(1)}, "MXFP4 tensor"),
        ({"e.gate_up_proj_blocks": None}, "'e.gate_up_proj_scales' is u8 and belongs to no packing"),
        ({"more": torch.zeros(2, dtype=torch.int64)}, "'more' is i64 and belongs to no packing"),
    ],
)
def test_mxfp4_parts_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    changed = mxfp4_tensors(2, 4, 3) | change
    tensors = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(WeightsError, match=message):
        SafetensorsCheckpoint(save(tmp_path, tensors))


def test_mxfp4_goes_into_ggmls_blocks_and_out_again(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    tensors = mxfp4_tensors(2, 48, 3)
    tensors["e.gate_up_proj_scales"].clamp_(1, 250)
    tensors["e.gate_up_proj_scales"][0, 0, 0] = 0
    tensors["e.gate_up_proj_blocks"][1, :8] = 0x11  # a block whose largest is a half, and one of zeros
    tensors["e.gate_up_proj_blocks"][1, 9] = 0
    values = SafetensorsCheckpoint(save(tmp_path, tensors)).read("e.gate_up_proj").data.transpose(1, 2)
    raw = mxfp4.pack(values, "w")
    assert raw.info == TensorInfo("w", Format.MXFP4, (2, 48, 96))
    assert torch.equal(dequantize(raw).view(2, 48, 96), values.float())
    kind = gguf.GGMLQuantizationType.MXFP4
    theirs = gguf.quants.dequantize(raw.data.numpy(), kind)
    assert torch.equal(torch.from_numpy(theirs).view(2, 48, 96), values.float())


@pytest.mark.parametrize("value", [5.0, 0.3, 100.0, math.nan, math.inf])
def test_only_what_was_mxfp4_is_packed(value: float) -> None:
    values = torch.full((1, 32), 4.0)
    values[0, 7] = value
    with pytest.raises(WeightsError, match="'w': its numbers are none of MXFP4"):
        mxfp4.pack(values, "w")


# INT4.


def int4_config(**changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    group = {"targets": ["Linear"], "weights": weights | changes}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": group}}


def int4_tensors(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensors:
    generator = torch.Generator().manual_seed(rows + columns)
    packed = torch.randint(-(2**31), 2**31, (rows, columns // 8), generator=generator).int()
    scale = torch.randn(rows, columns // 32, generator=generator).to(dtype)
    return {
        "w.weight_packed": packed,
        "w.weight_scale": scale,
        "w.weight_shape": torch.tensor([rows, columns]),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 32), (300, 96), (5, 224)])
def test_int4_by_its_definition(tmp_path: Path, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Lowest bits first, an offset of 8, rounded once to the type of the scales."""
    tensors = int4_tensors(*shape, dtype)
    checkpoint = SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=int4_config()))
    assert list(checkpoint.tensors) == ["w.weight"]
    raw = checkpoint.read("w.weight")
    assert raw.info == checkpoint.tensors["w.weight"]
    words = tensors["w.weight_packed"].long() & 0xFFFFFFFF
    codes = torch.stack([(words >> 4 * place) & 15 for place in range(8)], dim=2).view(shape) - 8
    scales = tensors["w.weight_scale"].repeat_interleave(32, dim=1)
    assert raw.data.dtype == dtype
    assert torch.equal(raw.data, (codes.double() * scales.double()).to(dtype))


@pytest.mark.parity
def test_int4_unpacks_to_the_bits_of_compressed_tensors(tmp_path: Path) -> None:
    reference = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    schemes = pytest.importorskip("compressed_tensors.quantization")
    tensors = int4_tensors(96, 160)
    args = schemes.QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=32)
    scheme = schemes.QuantizationScheme(targets=["Linear"], weights=args)
    local = {name.removeprefix("w."): tensor for name, tensor in tensors.items()}
    theirs = reference.PackedQuantizationCompressor.decompress(local, scheme)["weight"]
    ours = SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=int4_config())).read("w.weight")
    assert torch.equal(ours.data.view(torch.int16), theirs.view(torch.int16))


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"w.weight_scale": None}, {}, "needs 'w.weight_scale'"),
        ({"w.weight_shape": None}, {}, "needs 'w.weight_scale'"),
        ({"w.weight_scale": torch.zeros(4, 3)}, {}, "divide its columns"),
        ({"w.weight_scale": torch.zeros(3, 2)}, {}, "divide its columns"),
        ({"w.weight": torch.zeros(1)}, {}, "4-bit tensor"),
        ({"w.weight_zero_point": torch.zeros(4, 1, dtype=torch.int32)}, {}, "belongs to no packing"),
        ({}, {"num_bits": 8}, "Mohist reads symmetric 4-bit ones"),
        ({}, {"symmetric": False}, "Mohist reads symmetric 4-bit ones"),
        ({}, {"actorder": "group"}, "Mohist reads symmetric 4-bit ones"),
    ],
)
def test_int4_parts_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], config: dict[str, Any], message: str
) -> None:
    tensors = {name: t for name, t in (int4_tensors(4, 64) | change).items() if t is not None}
    with pytest.raises(WeightsError, match=message):
        SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=int4_config(**config)))


def test_int4_rows_that_are_padded_are_refused(tmp_path: Path) -> None:
    tensors = int4_tensors(4, 64) | {"w.weight_shape": torch.tensor([4, 60])}
    checkpoint = SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=int4_config()))
    with pytest.raises(WeightsError, match=r"says \[4, 60\]: its rows are padded"):
        checkpoint.read("w.weight")


# FP8.


@pytest.mark.parametrize("shape", [(), (1,)])
def test_fp8_may_have_a_single_scale(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Mistral's: one scale a matrix, and one for activations that nobody needs here."""
    codes = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    scale = torch.full(shape, 0.37)
    tensors = {"w.weight": codes, "w.weight_scale_inv": scale, "w.activation_scale": torch.ones(shape)}
    quantization = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    checkpoint = SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=quantization))
    assert list(checkpoint.tensors) == ["w.weight"]
    assert torch.equal(checkpoint.read("w.weight").data, codes.float() * scale)
    tensors["w.weight_scale_inv"] = torch.ones(1, 1)
    with pytest.raises(WeightsError, match="needs a single float scale"):
        SafetensorsCheckpoint(save(tmp_path, tensors, quantization_config=quantization))


def test_fp8_scales_may_be_bare_exponents(tmp_path: Path) -> None:
    """ue8m0: one byte, 2^(e - 127)."""
    codes = torch.randn(130, 200, generator=torch.Generator().manual_seed(0)).to(torch.float8_e4m3fn)
    exponents = torch.tensor([[120, 127], [130, 1]], dtype=torch.uint8)
    tensors = {"w": codes, "w_scale_inv": exponents.view(torch.float8_e8m0fnu)}
    folder = save(tmp_path, tensors, quantization_config={"quant_method": "fp8", "scale_fmt": "ue8m0"})
    values = SafetensorsCheckpoint(folder).read("w").data
    scales = torch.ldexp(torch.ones(2, 2), exponents.int() - 127)
    expected = codes.float()
    for row in range(2):
        for column in range(2):
            part = (slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128))
            expected[part] *= scales[row, column]
    assert torch.equal(values, expected)
