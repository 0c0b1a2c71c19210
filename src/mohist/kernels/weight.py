"""Matrices in the layout that the kernels read: panels of 16 output rows, the contraction outside of them.

A `Weight` is [N, K]: N output features, K input features. With P = ceil(N / 16) panels (missing rows are
zero) and B = K / 32 blocks, the bytes of `Weight.data` are

    f32, bf16   [P][K][16]
    q8_0        [P][B] { f16 d[16]; i8 q[8][16][4] }             q[g][c][i]: row c of the panel, entry 4g+i
    q4_0        [P][B] { f16 d[16]; u8 q[4][16][4] }             low nibble: entry 4g+i; high: 16+4g+i
    q4_1        [P][B] { f16 d[16]; f16 m[16]; u8 q[4][16][4] }  as q4_0

so that one vector load gives the next operand of 16 neighbouring outputs. The quantised blocks hold ggml's
own bits in another order: values d*q (q8_0), d*(q - 8) (q4_0), d*q + m (q4_1).

K-quants come in groups of eight blocks behind one header, G = K / 256 (values: see `mohist.kernels.kquants`):

    q4_k        [P][G] { f16 d[16]; f16 dmin[16]; u8 scale[8][16]; u8 minimum[8][16]; u8 q[8][4][16][4] }
    q5_k        [P][G] { as q4_k, but { u8 q[4][16][4]; u8 above[16][4] } [8] }
    q6_k        [P][G] { f16 d[16]; i8 scale[8][2][16]; { u8 q[4][16][4]; u8 above[2][16][4] } [8] }
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mohist.kernels import kquants
from mohist.kernels.memory import huge_pages

__all__ = [
    "BLOCK",
    "PANEL",
    "Factors",
    "LowRankTerm",
    "TargetFormat",
    "Weight",
    "WeightFormat",
    "group_bytes",
    "group_values",
    "is_quantized",
]

TargetFormat = Literal["f32", "bf16", "q8_0", "q4_0", "q4_1"]
"""What any matrix can be turned into. K-quants are only read: to make good ones is a search of its own."""
WeightFormat = Literal[TargetFormat, "q4_k", "q5_k", "q6_k"]

PANEL = 16
"""Output rows of a panel."""
BLOCK = 32
"""Entries of a row that meet 32 activations with a scale of their own."""

_DTYPES: dict[str, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16}


class _Layout(NamedTuple):
    """What a row has in a group: entries, float16 numbers, other scales of a byte, and fours of quants."""

    values: int
    halves: int
    scales: int
    fours: int

    @property
    def bytes(self) -> int:
        return 2 * self.halves + self.scales + 4 * self.fours

    def dtype(self, *rows: int) -> np.dtype[Any]:
        """Of one row, or with every item for so many rows side by side."""
        return np.dtype(
            [
                ("halves", "V2", (self.halves, *rows)),
                ("scales", "u1", (self.scales, *rows)),
                ("quants", "V4", (self.fours, *rows)),
            ]
        )


_LAYOUTS: dict[str, _Layout] = {
    "q8_0": _Layout(32, 1, 0, 8),
    "q4_0": _Layout(32, 1, 0, 4),
    "q4_1": _Layout(32, 2, 0, 4),
    "q4_k": _Layout(256, 2, 16, 8 * 4),
    "q5_k": _Layout(256, 2, 16, 8 * 5),
    "q6_k": _Layout(256, 1, 16, 8 * 6),
}
_PANELS_AT_A_TIME = 8
"""Of K-quants, taken apart: what is made on the way stays in cache."""


def is_quantized(weight_format: WeightFormat) -> bool:
    """Whether the format stores blocks of small integers with scales."""
    return weight_format in _LAYOUTS


def group_values(weight_format: WeightFormat) -> int:
    """Entries of a row that share a header of scales: a row has a whole number of groups. 1 for floats."""
    return _LAYOUTS[weight_format].values if is_quantized(weight_format) else 1


def group_bytes(weight_format: WeightFormat) -> int:
    """Bytes that these entries take, scales included."""
    if is_quantized(weight_format):
        return _LAYOUTS[weight_format].bytes
    return _DTYPES[weight_format].itemsize


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
        groups, rest = divmod(in_features, group_values(weight_format))
        assert rest == 0, (
            f"{weight_format} needs rows in groups of {group_values(weight_format)}, not {in_features}"
        )
        num_bytes = -(-out_features // PANEL) * PANEL * groups * group_bytes(weight_format)
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
        layout = _LAYOUTS[weight_format]
        groups = row_bytes // kquants.STORED_BYTES.get(weight_format, layout.bytes)
        weight = cls.empty(weight_format, num_rows, groups * layout.values)
        panels_PG = weight.data.numpy().view(layout.dtype(PANEL)).reshape(-1, groups)
        rows = rows_NB.contiguous().numpy()
        step = PANEL * (_PANELS_AT_A_TIME if kquants.is_k_format(weight_format) else len(panels_PG))
        for start in range(0, num_rows, step):
            _interleave(_grouped(weight_format, rows[start : start + step]), panels_PG[start // PANEL :])
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
        halves_TGH, scales_TGS, quants_TGB = self._groups(panel_T, lane_T)
        if kquants.is_k_format(self.format):
            blocks = quants_TGB.unflatten(2, (8, -1))
            return kquants.dequantized(self.format, halves_TGH, scales_TGS, blocks).flatten(1)
        if self.format == "q8_0":
            values_TGK = quants_TGB.view(torch.int8).float()
        else:
            values_TGK = torch.cat((quants_TGB & 15, quants_TGB >> 4), dim=2).float()
        if self.format == "q4_0":
            values_TGK -= 8
        dense = values_TGK * halves_TGH[:, :, :1]
        if self.format == "q4_1":
            dense += halves_TGH[:, :, 1:]
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

    def _groups(self, panel_T: Tensor, lane_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of rows: float16 numbers as float32 [T, G, halves], scales [T, G, scales], quants [T, G, bytes]."""
        layout = _LAYOUTS[self.format]
        groups = self.data.view(-1, self.in_features // layout.values, PANEL * layout.bytes)
        sizes = [PANEL * n for n in (2 * layout.halves, layout.scales, 4 * layout.fours)]
        halves, scales, quants = groups.split(sizes, dim=2)
        halves_PGHC = halves.view(torch.float16).unflatten(2, (-1, PANEL))
        scales_PGSC = scales.unflatten(2, (layout.scales, PANEL))
        quants_PGFC4 = quants.unflatten(2, (-1, PANEL, 4))
        return (
            halves_PGHC[panel_T, :, :, lane_T].float(),
            scales_PGSC[panel_T, :, :, lane_T],
            quants_PGFC4[panel_T, :, :, lane_T].flatten(2),
        )


def _grouped(weight_format: WeightFormat, rows_NB: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """ggml's rows as [N, G] of the items in `_LAYOUTS`."""
    layout = _LAYOUTS[weight_format]
    if not kquants.is_k_format(weight_format):
        return rows_NB.view(layout.dtype())
    stored_NGB = rows_NB.reshape(len(rows_NB), -1, kquants.STORED_BYTES[weight_format])
    apart = kquants.parts(weight_format, stored_NGB)
    flat = [part.reshape(*stored_NGB.shape[:2], -1) for part in apart]
    return np.concatenate(flat, axis=2).view(layout.dtype()).squeeze(2)


def _interleave(groups_NG: np.ndarray[Any, Any], panels_PG: np.ndarray[Any, Any]) -> None:
    """Put rows into the first panels, and zeros into what is left of the last of them."""
    num_rows = len(groups_NG)
    whole = num_rows // PANEL
    rest = num_rows % PANEL
    if rest:
        panels_PG[whole] = np.zeros((), panels_PG.dtype)
    for field in ("halves", "scales", "quants"):
        groups, panels = groups_NG[field], panels_PG[field]
        in_panels = groups[: whole * PANEL].reshape(whole, PANEL, *groups.shape[1:])
        panels[:whole] = in_panels.transpose(0, 2, 3, 1)
        if rest:
            panels[whole, ..., :rest] = groups[whole * PANEL :].transpose(1, 2, 0)


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
