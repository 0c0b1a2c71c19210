"""Matrices in the layout that the kernels read: panels of 16 output rows, the contraction outside of them.

A `Weight` is [N, K]: N output features, K input features. With P = ceil(N / 16) panels (missing rows are
zero) and B = K / 32 blocks, the bytes of `Weight.data` are

    f32, bf16   [P][K][16]
    q8_0        [P][B] { f16 d[16]; i8 q[8][16][4] }             q[g][c][i]: row c of the panel, entry 4g+i
    q4_0        [P][B] { f16 d[16]; u8 q[4][16][4] }             low nibble: entry 4g+i; high: 16+4g+i
    q4_1        [P][B] { f16 d[16]; f16 m[16]; u8 q[4][16][4] }  as q4_0

so that one vector load gives the next operand of 16 neighbouring outputs. The quantised blocks hold ggml's
own bits in another order: values d*q (q8_0), d*(q - 8) (q4_0), d*q + m (q4_1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mohist.kernels.memory import huge_pages

__all__ = [
    "BLOCK",
    "PANEL",
    "Factors",
    "LowRankTerm",
    "Weight",
    "WeightFormat",
    "bytes_per_block",
    "is_quantized",
]

WeightFormat = Literal["f32", "bf16", "q8_0", "q4_0", "q4_1"]

PANEL = 16
"""Output rows of a panel."""
BLOCK = 32
"""Entries of a row that share a scale."""

_DTYPES: dict[str, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16}
_SCALES: dict[str, int] = {"q8_0": 1, "q4_0": 1, "q4_1": 2}
_QUANT_BYTES: dict[str, int] = {"q8_0": 32, "q4_0": 16, "q4_1": 16}


def is_quantized(weight_format: WeightFormat) -> bool:
    """Whether the format stores blocks of small integers with scales."""
    return weight_format in _SCALES


def bytes_per_block(weight_format: WeightFormat) -> int:
    """Bytes of 32 neighbouring entries of a row, scales included."""
    if is_quantized(weight_format):
        return 2 * _SCALES[weight_format] + _QUANT_BYTES[weight_format]
    return BLOCK * _DTYPES[weight_format].itemsize


class Factors(NamedTuple):
    """Two thin trained matrices: scale * B A is a difference to a matrix [N, K] (LoRA)."""

    a_RK: Tensor
    b_NR: Tensor
    scale: float


class LowRankTerm(NamedTuple):
    """A difference to a matrix [N, K] for some rows of `Ops.linear`: the product of two packed thin ones."""

    a: Weight
    """[R, K]."""
    b: Weight
    """[N, R], with the scale multiplied in."""
    start: int = 0
    end: int | None = None
    """Rows `start..end` of x; None: to the last one."""
    factors: Factors | None = None
    """What the two were packed from, when gradients have to flow to that; then the term is for all rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """One packed matrix [out_features, in_features]; made by `from_dense` or `from_rows`."""

    format: WeightFormat
    out_features: int
    in_features: int
    data: Tensor
    """1-D and contiguous: float32 or bfloat16 entries, or the bytes of the quantised blocks."""
    source: Tensor | None = None
    """The float32 [N, K] that `data` was packed from, when gradients have to flow to it."""
    terms: tuple[LowRankTerm, ...] = ()
    """Differences that `linear` adds, for rows that do not overlap; other ops know none."""

    @classmethod
    def empty(
        cls,
        weight_format: WeightFormat,
        out_features: int,
        in_features: int,
        device: torch.device | None = None,
    ) -> Weight:
        """A weight of the right size whose entries are not set; on the CPU, if no device is named."""
        assert weight_format in get_args(WeightFormat), weight_format
        assert in_features % BLOCK == 0 or not is_quantized(weight_format), (
            f"{weight_format} needs rows in blocks of {BLOCK}, not {in_features}"
        )
        rows = -(-out_features // PANEL) * PANEL
        num_bytes = rows * in_features * bytes_per_block(weight_format) // BLOCK
        on_cpu = device is None or device.type == "cpu"
        data = (
            huge_pages.empty(num_bytes)
            if on_cpu
            else torch.empty(num_bytes, dtype=torch.uint8, device=device)
        )
        data = data.view(_DTYPES.get(weight_format, torch.uint8))
        return cls(weight_format, out_features, in_features, data)

    @classmethod
    def from_dense(cls, matrix_NK: Tensor, weight_format: WeightFormat = "f32") -> Weight:
        """Pack a float matrix as f32 or bf16 (rounded to nearest even)."""
        assert weight_format in _DTYPES, f"{weight_format} is packed from rows of blocks, by from_rows"
        weight = cls.empty(weight_format, *matrix_NK.shape, matrix_NK.device)
        weight.update(matrix_NK)
        return weight

    @classmethod
    def from_rows(cls, weight_format: WeightFormat, rows_NB: Tensor) -> Weight:
        """Pack ggml's rows: uint8 [N, bytes of a row] on the CPU, every block behind its scales."""
        num_rows, row_bytes = rows_NB.shape
        weight = cls.empty(weight_format, num_rows, row_bytes // bytes_per_block(weight_format) * BLOCK)
        blocks_NB = rows_NB.contiguous().numpy().view(_block_layout(weight_format))
        panels_PB = weight.data.numpy().view(_panel_layout(weight_format)).reshape(-1, blocks_NB.shape[1])
        whole = num_rows // PANEL
        for field in ("scales", "quants"):
            blocks, panels = blocks_NB[field], panels_PB[field]
            in_panels = blocks[: whole * PANEL].reshape(whole, PANEL, *blocks.shape[1:])
            panels[:whole] = in_panels.transpose(0, 2, 3, 1)
            if rest := num_rows % PANEL:
                panels[whole] = np.zeros((), panels.dtype)
                panels[whole, ..., :rest] = blocks[whole * PANEL :].transpose(1, 2, 0)
        return weight

    def update(self, matrix_NK: Tensor) -> None:
        """Pack another float matrix of the same shape in place (f32 and bf16 only)."""
        assert matrix_NK.shape == (self.out_features, self.in_features), (matrix_NK.shape, self)
        matrix_NK = matrix_NK.detach().to(self.data.dtype)
        panels_PKC = self.data.view(-1, self.in_features, PANEL)
        whole = self.out_features // PANEL
        in_panels = matrix_NK[: whole * PANEL].reshape(whole, PANEL, self.in_features)
        _copy(panels_PKC[:whole], in_panels.transpose(1, 2))
        if rest := self.out_features % PANEL:
            panels_PKC[whole].zero_()
            _copy(panels_PKC[whole, :, :rest], matrix_NK[whole * PANEL :].t())

    def to_dense(self) -> Tensor:
        """The matrix as float32 [N, K], dequantised."""
        if not is_quantized(self.format):
            panels_PCK = self.data.view(-1, self.in_features, PANEL).transpose(1, 2)
            return panels_PCK.reshape(-1, self.in_features)[: self.out_features].float()
        return self.rows(torch.arange(self.out_features, device=self.data.device))

    def rows(self, index_T: Tensor) -> Tensor:
        """Some rows of the matrix as float32 [T, K], dequantised."""
        panel_T, lane_T = index_T.long() // PANEL, index_T.long() % PANEL
        if not is_quantized(self.format):
            return self.data.view(-1, self.in_features, PANEL)[panel_T, :, lane_T].float()
        scales, quants = self._blocks()
        scales_TBS = scales.view(torch.float16)[panel_T, :, :, lane_T].float()
        bytes_TBG4 = quants[panel_T, :, :, lane_T]
        if self.format == "q8_0":
            values_TBK = bytes_TBG4.view(torch.int8).flatten(2).float()
        else:
            nibbles = bytes_TBG4.flatten(2)
            values_TBK = torch.cat((nibbles & 15, nibbles >> 4), dim=2).float()
        if self.format == "q4_0":
            values_TBK -= 8
        dense = values_TBK * scales_TBS[:, :, :1]
        if self.format == "q4_1":
            dense += scales_TBS[:, :, 1:]
        return dense.flatten(1)

    def to(self, device: torch.device) -> Weight:
        """The same weight on another device."""
        return replace(self, data=self.data.to(device))

    def with_source(self, source: Tensor | None) -> Weight:
        """The same packed weight, with gradients flowing to `source`."""
        return replace(self, source=source)

    def with_terms(self, terms: tuple[LowRankTerm, ...]) -> Weight:
        """The same packed weight, with these differences."""
        return replace(self, terms=terms)

    def _blocks(self) -> tuple[Tensor, Tensor]:
        """Views of `data`: scales as bytes [P, B, S, 32] (16 rows x f16), quants [P, B, G, 16, 4]."""
        num_scales = _SCALES[self.format]
        blocks = self.data.view(-1, self.in_features // BLOCK, PANEL * bytes_per_block(self.format))
        head = num_scales * 2 * PANEL
        scales, quants = blocks[..., :head], blocks[..., head:]
        return scales.unflatten(2, (num_scales, 2 * PANEL)), quants.unflatten(2, (-1, PANEL, 4))


def _block_layout(weight_format: WeightFormat) -> np.dtype[Any]:
    """ggml's block: scales, then quants in fours."""
    quants = _QUANT_BYTES[weight_format] // 4
    return np.dtype([("scales", "V2", (_SCALES[weight_format],)), ("quants", "V4", (quants,))])


def _panel_layout(weight_format: WeightFormat) -> np.dtype[Any]:
    """The same for 16 rows at a time: every scale and every four quants of all rows together."""
    quants = _QUANT_BYTES[weight_format] // 4
    return np.dtype([("scales", "V2", (_SCALES[weight_format], PANEL)), ("quants", "V4", (quants, PANEL))])


def _copy(target: Tensor, source: Tensor) -> None:
    """Copy between tensors of one type; on the CPU without PyTorch's threads.

    For so little work they cost more than they save, and stall when another process has one of the cores.
    """
    if target.device.type != "cpu":
        target.copy_(source)
    elif target.dtype == torch.bfloat16:  # which numpy does not know
        np.copyto(target.view(torch.int16).numpy(), source.view(torch.int16).numpy())
    else:
        np.copyto(target.numpy(), source.numpy())
