"""Number formats: our decoders and encoders give the bits of ggml's reference, through the gguf package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mohist.errors import WeightsError
from mohist.weights import quants
from mohist.weights.formats import Format, RawTensor, TensorInfo, bytes_per_row
from mohist.weights.quants import dequantize, quantize

BLOCK_FORMATS = [format for format in Format if format.is_block]
GGUF_FORMATS = [format for format in Format if format != Format.F8_E4M3 and not format.is_code]
ENCODED_FORMATS = [Format.Q8_0, Format.Q4_0, Format.Q4_1]


def reference_type(format: Format) -> tuple[Any, Any]:
    gguf = pytest.importorskip("gguf")
    return gguf.quants, gguf.GGMLQuantizationType[format.name]


def raw_blocks(format: Format, rows: int, blocks: int, data: torch.Tensor) -> RawTensor:
    info = TensorInfo("t", format, (rows, blocks * format.block_values))
    return RawTensor(info, data.view(rows, blocks * format.block_bytes))


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    known = ~np.isnan(theirs)
    np.testing.assert_array_equal(ours[known].view(np.int32), theirs[known].view(np.int32))


@pytest.mark.parity
@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random scales are infinite or NaN now and then
def test_random_blocks_decode_to_the_bits_of_gguf(format: Format) -> None:
    reference, kind = reference_type(format)
    generator = torch.Generator().manual_seed(0)
    rows, blocks = 37, 61
    data = torch.randint(256, (rows * blocks * format.block_bytes,), dtype=torch.uint8, generator=generator)
    raw = raw_blocks(format, rows, blocks, data)
    assert_same_bits(dequantize(raw).numpy(), reference.dequantize(raw.data.numpy(), kind))


@pytest.mark.parametrize("format", BLOCK_FORMATS)
def test_slicing_changes_nothing(format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randint(256, (5 * 7 * format.block_bytes,), dtype=torch.uint8)
    raw = raw_blocks(format, 5, 7, data)
    whole = dequantize(raw)
    monkeypatch.setattr(quants, "_SLICE_VALUES", 3 * format.block_values)
    assert_same_bits(dequantize(raw).numpy(), whole.numpy())


def awkward_values(rows: int, columns: int) -> torch.Tensor:
    """Gaussian rows at many scales, with zero blocks, ties between two integers, and equal extremes."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(rows, columns, generator=generator)
    values *= 10.0 ** torch.randint(-12, 4, (rows, 1), generator=generator)
    values[0] = 0
    values[1] = -0.0
    values[2] = torch.arange(columns) % 255 - 127 + 0.5
    values[3] = torch.arange(columns) % 17 - 8
    values[4] = 3.25
    values[5, ::2], values[5, 1::2] = -2.0, 2.0
    values[6] *= 1e-38
    return values


@pytest.mark.parity
@pytest.mark.parametrize("format", ENCODED_FORMATS)
def test_values_encode_to_the_bytes_of_gguf(format: Format) -> None:
    reference, kind = reference_type(format)
    values = awkward_values(200, 160)
    ours = quantize(values, format).data.numpy()
    with np.errstate(all="ignore"):
        theirs = reference.quantize(values.numpy(), kind)
    # A scale without a finite inverse is 0 in float16; gguf's quants beside it are infinities cast to bytes.
    scales = values.view(200, 5, 32)
    spread = scales.amax(2) - scales.amin(2) if format == Format.Q4_1 else scales.abs().amax(2)
    defined = ((spread > 1e-35) | (spread == 0)).numpy()
    ours, theirs = (data.reshape(200, 5, format.block_bytes) for data in (ours, theirs))
    np.testing.assert_array_equal(ours[defined], theirs[defined])
    assert not np.any(ours[~defined][:, :2].copy().view(np.float16))


@pytest.mark.parametrize("format", ENCODED_FORMATS)
def test_encoding_is_off_by_at_most_half_a_step(format: Format) -> None:
    values = torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
    back = dequantize(quantize(values, format))
    blocks = values.view(-1, 32)
    spread = blocks.amax(1) - blocks.amin(1) if format == Format.Q4_1 else blocks.abs().amax(1)
    step = spread / {Format.Q8_0: 127, Format.Q4_0: 8, Format.Q4_1: 15}[format]
    # Q4_0 has 8 steps on one side and 7 on the other: the far end may be a whole step off.
    allowed = step * (1.05 if format == Format.Q4_0 else 0.52) + blocks.abs().amax(1) * 1e-3
    assert ((back - values).view(-1, 32).abs().amax(1) <= allowed).all()


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-6e4, max_value=6e4))
def test_a_constant_block_survives(value: float) -> None:
    values = torch.full((1, 32), value)
    for format in ENCODED_FORMATS:
        back = dequantize(quantize(values, format))
        assert torch.allclose(back, values, rtol=1e-2, atol=1e-4), format


@pytest.mark.parametrize("format", ENCODED_FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e38])
def test_values_without_a_finite_scale_are_refused(format: Format, bad: float) -> None:
    values = torch.zeros(4, 64)
    values[2, 40] = bad
    with pytest.raises(WeightsError, match=r"'layer\.w' to q.*NaN, infinite or huge"):
        quantize(values, format, name="layer.w")


def test_what_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(WeightsError, match="choose one of q8_0, q4_0, q4_1"):
        quantize(torch.zeros(1, 256), Format.Q6_K)
    with pytest.raises(WeightsError, match="row of 33 values cannot be q8_0"):
        quantize(torch.zeros(1, 33), Format.Q8_0)
    with pytest.raises(WeightsError, match="pass a float32 matrix"):
        quantize(torch.zeros(1, 32, dtype=torch.bfloat16), Format.Q8_0)
    with pytest.raises(WeightsError, match="pass a float32 matrix"):
        quantize(torch.zeros(32), Format.Q8_0)


def test_every_fp8_code_decodes_by_its_definition() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    values = dequantize(RawTensor.plain("t", codes.view(torch.float8_e4m3fn)))
    for code, value in enumerate(values.tolist()):
        sign, exponent, mantissa = -1 if code >> 7 else 1, code >> 3 & 15, code & 7
        if exponent == 15 and mantissa == 7:
            assert value != value
        elif exponent == 0:
            assert value == sign * mantissa * 2.0**-9
        else:
            assert value == sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plain_formats_widen_exactly(dtype: torch.dtype) -> None:
    values = torch.randn(3, 5, 7).to(dtype)
    back = dequantize(RawTensor.plain("t", values))
    assert back.dtype == torch.float32
    assert torch.equal(back.to(dtype), values)
    assert back.shape == (3, 5, 7)


@pytest.mark.parity
@pytest.mark.parametrize("format", GGUF_FORMATS)
def test_sizes_are_those_of_gguf(format: Format) -> None:
    gguf = pytest.importorskip("gguf")
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[format.name]]
    assert (format.block_values, format.block_bytes) == (values, size)
    assert bytes_per_row(format, 4 * values) == 4 * size


def test_a_raw_tensor_must_fit_its_description() -> None:
    info = TensorInfo("t", Format.Q8_0, (2, 3, 64))
    assert info.num_values == 384
    assert info.num_bytes == 6 * 68
    raw = RawTensor(info, torch.zeros(6, 68, dtype=torch.uint8))
    assert dequantize(raw).shape == (2, 3, 64)
    with pytest.raises(
        WeightsError, match=r"tensor 't': q8_0 of shape \(2, 3, 64\) is stored as torch.uint8 \[6, 68\]"
    ):
        RawTensor(info, torch.zeros(6, 64, dtype=torch.uint8))
    with pytest.raises(WeightsError, match="int64 is no weight format"):
        RawTensor.plain("t", torch.zeros(3, dtype=torch.int64))
