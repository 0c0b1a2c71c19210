"""Kimi K2 Thinking's weights: 4-bit integers in groups of 32 with one scale each (compressed-tensors).

`NAME_packed`, I32 [rows, columns / 8], holds eight codes a word, the first in the lowest bits; `NAME_scale`,
[rows, groups], their scales; `NAME_shape` the shape. A code q stands for (q - 8) * scale, rounded to the type
of the scales (`unpack_from_int32` and `dequantize` in the compressed-tensors package, format
`pack-quantized`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mohist.errors import WeightsError
from mohist.weights.formats import Format, Packed, RawTensor, TensorInfo

__all__ = ["find", "unpack"]

_PACKED, _SCALE, _SHAPE = "_packed", "_scale", "_shape"
_CODES = 8  # of a word
_SLICE_ROWS = 256
"""Rows unpacked at a time, so that temporaries stay small."""


def find(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Packed]:
    """The packed tensors among `tensors`.

    Raises WeightsError when the config tells of another kind of packing, or parts do not fit each other.
    """
    found: dict[str, Packed] = {}
    for stored, packed in tensors.items():
        if packed.format != Format.I32 or not stored.endswith(_PACKED):
            continue
        if not found:
            _check_config(folder, config)
        name = stored.removesuffix(_PACKED)
        scale, shape = tensors.get(name + _SCALE), tensors.get(name + _SHAPE)
        if scale is None or shape is None or name in tensors or not _fit(packed, scale, shape):
            raise WeightsError(
                f"{folder}: 4-bit tensor {stored!r:.100} {list(packed.shape)} needs {name + _SCALE!r:.100}, "
                f"float scales [rows, groups] that divide its columns, and {name + _SHAPE!r:.100}, two counts"
            )
        info = TensorInfo(name, scale.format, (packed.shape[0], packed.shape[1] * _CODES))
        found[name] = Packed(info, (stored, scale.name, shape.name), unpack)
    return found


def unpack(packed: RawTensor, scale: RawTensor, shape: RawTensor) -> RawTensor:
    """The values in the type of the scales. Raises WeightsError when the stored shape is another."""
    rows, columns = packed.data.shape[0], packed.data.shape[1] * _CODES
    name = packed.info.name.removesuffix(_PACKED)
    if shape.data.tolist() != [rows, columns]:
        raise WeightsError(
            f"tensor {packed.info.name!r:.100} holds [{rows}, {columns}] codes, but {shape.info.name!r:.100} "
            f"says {shape.data.tolist()}: its rows are padded, which Mohist does not read"
        )
    groups = scale.data.shape[1]
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    values = torch.empty(rows, columns, dtype=scale.data.dtype)
    for start in range(0, rows, _SLICE_ROWS):
        part = slice(start, start + _SLICE_ROWS)
        codes = (packed.data[part].unsqueeze(2) >> shifts).bitwise_and_(15).sub_(8)
        grouped = codes.view(-1, groups, columns // groups).to(values.dtype)
        values[part] = grouped.mul_(scale.data[part].unsqueeze(2)).view(-1, columns)
    return RawTensor.plain(name, values)


def _check_config(folder: Path, config: Mapping[str, Any]) -> None:
    text = config.get("text_config")
    nested = text.get("quantization_config") if isinstance(text, dict) else None
    stated = config.get("quantization_config") or nested
    groups = stated.get("config_groups") if isinstance(stated, dict) else None
    if not isinstance(groups, dict) or not groups or not all(map(_is_int4, groups.values())):
        raise WeightsError(
            f"{folder}: quantization_config = {stated!r:.300}: of packed integers Mohist reads symmetric "
            "4-bit ones in groups (compressed-tensors, pack-quantized); take another release of this model"
        )


def _is_int4(group: Any) -> bool:
    weights = group.get("weights") if isinstance(group, dict) else None
    return (
        isinstance(weights, dict)
        and (weights.get("num_bits"), weights.get("type", "int")) == (4, "int")
        and weights.get("symmetric") is True
        and weights.get("actorder") is None
    )


def _fit(packed: TensorInfo, scale: TensorInfo, shape: TensorInfo) -> bool:
    """Whether the parts belong together."""
    if (
        len(packed.shape) != 2
        or len(scale.shape) != 2
        or scale.format not in (Format.BF16, Format.F16, Format.F32)
    ):
        return False
    if shape.shape != (2,) or shape.format not in (Format.I32, Format.I64):
        return False
    columns = packed.shape[1] * _CODES
    return scale.shape[0] == packed.shape[0] and scale.shape[1] > 0 and columns % scale.shape[1] == 0
