"""Packed weights: the layout byte by byte, and the values against the reference quantiser."""

from __future__ import annotations

import pytest
import torch

from mohist.kernels.weight import Weight, WeightFormat, group_bytes, group_values, is_quantized
from mohist.weights.formats import Format, RawTensor, TensorInfo
from mohist.weights.quants import dequantize

SMALL: tuple[WeightFormat, ...] = ("q8_0", "q4_0", "q4_1")
K_QUANTS: tuple[WeightFormat, ...] = ("q4_k", "q5_k", "q6_k")
QUANTIZED = (*SMALL, *K_QUANTS)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def random_rows(weight_format: WeightFormat, num_rows: int, in_features: int, seed: int = 5) -> torch.Tensor:
    """ggml's rows with random bytes; the float16 numbers are small and random."""
    generator = torch.Generator().manual_seed(seed)
    stored = Format(weight_format)
    blocks = in_features // stored.block_values
    rows = torch.randint(
        0, 256, (num_rows, blocks, stored.block_bytes), generator=generator, dtype=torch.uint8
    )
    halves = torch.randn(num_rows, blocks, 2, generator=generator).half().view(torch.uint8)
    if weight_format == "q6_k":
        rows[..., 208:] = halves[..., :2]
    else:
        num_bytes = 2 if weight_format in ("q8_0", "q4_0") else 4
        rows[..., :num_bytes] = halves[..., :num_bytes]
    return rows.flatten(1)


def by_definition(weight_format: WeightFormat, row: torch.Tensor, k: int) -> float:
    """Entry k of one of ggml's rows."""
    block = row.view(-1, group_bytes(weight_format))[k // 32]
    scale = block[:2].view(torch.float16).float()
    if weight_format == "q8_0":
        return float(scale * block[2 + k % 32].view(torch.int8))
    quants = block[4:] if weight_format == "q4_1" else block[2:]
    byte = int(quants[k % 16])
    nibble = byte >> 4 if k % 32 >= 16 else byte & 15
    if weight_format == "q4_0":
        return float(scale * (nibble - 8))
    return float(scale * nibble + block[2:4].view(torch.float16).float())


@pytest.mark.parametrize(("num_rows", "in_features"), [(48, 64), (37, 96), (5, 32), (16, 32)])
@pytest.mark.parametrize("weight_format", SMALL)
def test_quantised_values_are_those_of_ggml(
    weight_format: WeightFormat, num_rows: int, in_features: int
) -> None:
    rows = random_rows(weight_format, num_rows, in_features)
    weight = Weight.from_rows(weight_format, rows)
    assert (weight.out_features, weight.in_features) == (num_rows, in_features)
    expected = [[by_definition(weight_format, row, k) for k in range(in_features)] for row in rows]
    assert torch.equal(weight.to_dense(), torch.tensor(expected))


@pytest.mark.parametrize(("num_rows", "in_features"), [(300, 512), (37, 256), (16, 768)])
@pytest.mark.parametrize("weight_format", K_QUANTS)
def test_k_quants_have_the_values_of_the_file(
    weight_format: WeightFormat, num_rows: int, in_features: int
) -> None:
    """`dequantize` gives those of the gguf package, bit for bit (tests/weights)."""
    rows = random_rows(weight_format, num_rows, in_features)
    weight = Weight.from_rows(weight_format, rows)
    info = TensorInfo("t", Format(weight_format), (num_rows, in_features))
    assert torch.equal(weight.to_dense(), dequantize(RawTensor(info, rows)))
    bits = {"q4_k": 4.625, "q5_k": 5.625, "q6_k": 6.5625}[weight_format]
    assert weight.data.numel() == -(-num_rows // 16) * 16 * in_features * bits / 8


@pytest.mark.parametrize("weight_format", K_QUANTS)
def test_rows_that_are_missing_are_zeros(weight_format: WeightFormat) -> None:
    data = Weight.from_rows(weight_format, random_rows(weight_format, 21, 512)).data
    whole, rest = data.view(2, -1)
    filled = Weight.from_rows(weight_format, random_rows(weight_format, 21, 512)[16:]).data
    assert torch.equal(rest, filled)
    assert torch.equal(whole, Weight.from_rows(weight_format, random_rows(weight_format, 21, 512)[:16]).data)
    assert not rest.view(2, -1)[:, :32].view(2, 16, 2)[:, 5:].any()


@pytest.mark.parametrize("weight_format", SMALL)
def test_quantised_layout(weight_format: WeightFormat) -> None:
    """The panel's bytes lie where the module's docstring puts them."""
    rows = random_rows(weight_format, 37, 96)
    num_blocks, block_bytes = 3, group_bytes(weight_format)
    head = 2 if weight_format == "q4_1" else 1
    data = Weight.from_rows(weight_format, rows).data.view(3, num_blocks, 16 * block_bytes)
    for row, block in ((0, 0), (17, 2), (36, 1)):
        packed, lane = data[row // 16, block], row % 16
        stored = rows[row].view(num_blocks, block_bytes)[block]
        for scale in range(head):
            at = 32 * scale + 2 * lane
            assert torch.equal(packed[at : at + 2], stored[2 * scale : 2 * scale + 2])
        quants = packed[32 * head :].view(-1, 16, 4)
        assert torch.equal(quants[:, lane].flatten(), stored[2 * head :])
    assert not data[2].view(num_blocks, -1)[:, : 32 * head].view(num_blocks, head, 16, 2)[:, :, 5:].any()


@pytest.mark.parametrize(("num_rows", "in_features"), [(48, 7), (37, 96), (5, 1)])
def test_dense_layout(num_rows: int, in_features: int) -> None:
    matrix = torch.randn(num_rows, in_features)
    weight = Weight.from_dense(matrix)
    panels = weight.data.view(-1, in_features, 16)
    for row in range(num_rows):
        assert torch.equal(panels[row // 16, :, row % 16], matrix[row])
    assert weight.data.numel() == -(-num_rows // 16) * 16 * in_features
    assert not panels[-1, :, (num_rows - 1) % 16 + 1 :].any()
    assert torch.equal(weight.to_dense(), matrix)


def test_bf16_rounds_to_nearest_even() -> None:
    matrix = torch.randn(20, 33)
    assert torch.equal(Weight.from_dense(matrix, "bf16").to_dense(), matrix.bfloat16().float())


@pytest.mark.parametrize("weight_format", ["f32", "bf16", *QUANTIZED])
def test_rows_are_rows_of_the_dense_matrix(weight_format: WeightFormat) -> None:
    if is_quantized(weight_format):
        width = 2 * group_values(weight_format)
        weight = Weight.from_rows(weight_format, random_rows(weight_format, 37, width))
    else:
        weight = Weight.from_dense(torch.randn(37, 64), weight_format)
    index = torch.tensor([36, 0, 5, 5, 16], dtype=torch.int32)
    assert torch.equal(weight.rows(index), weight.to_dense()[index])


def test_update_writes_in_place() -> None:
    weight = Weight.from_dense(torch.randn(21, 8))
    address = weight.data.data_ptr()
    matrix = torch.randn(21, 8)
    weight.update(matrix)
    assert weight.data.data_ptr() == address
    assert torch.equal(weight.to_dense(), matrix)


def test_sources_travel_along() -> None:
    matrix = torch.randn(16, 8)
    weight = Weight.from_dense(matrix).with_source(matrix)
    assert weight.source is matrix
    assert weight.to(torch.device("cpu")).source is matrix
    assert weight.with_source(None).source is None
    assert weight.with_source(None).data is weight.data
