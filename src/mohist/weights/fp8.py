"""FP8 weights: float8_e4m3 matrices with one scale for every block of 128 x 128 (DeepSeek), or one in all.

`weight = fp8 * scale` block by block; the scale is stored as `<name>_scale_inv` (it inverts the scaling that
was done before rounding) and is multiplied, not divided (DeepSeek-V3 technical report, section 3.3;
`inference/kernel.py`, `weight_dequant`). Scales are float32, or bare exponents (ue8m0, V3.1 and later).
Mistral's releases have a single scale, and beside it one for activations, which are not rounded here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mohist.errors import WeightsError
from mohist.weights.formats import Format, Packed, RawTensor, TensorInfo

__all__ = ["apply_scale", "find"]

_SUFFIX = "_scale_inv"
_WEIGHT, _ACTIVATIONS = "weight", "activation_scale"
_DEFAULT_BLOCK = (128, 128)
_SCALE_FORMATS = (Format.F32, Format.BF16, Format.F16, Format.F8_E8M0)


def find(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Packed]:
    """Every FP8 matrix with the block scales beside it, their shape checked.

    Raises WeightsError when the config speaks of quantisation and an FP8 tensor has no block scale (its
    values would be meaningless), or a scale does not fit its matrix.
    """
    quantization = config.get("quantization_config")
    block = _block(folder, quantization)
    found: dict[str, Packed] = {}
    for name, info in tensors.items():
        if info.format != Format.F8_E4M3:
            continue
        scale = tensors.get(name + _SUFFIX)
        if scale is None:
            if quantization is not None:
                raise WeightsError(
                    f"{folder}: FP8 tensor {name!r} has no {name + _SUFFIX!r} beside it; Mohist reads FP8 "
                    "with 128 x 128 block scales (DeepSeek-V3, Qwen3-FP8), or take the bf16 release"
                )
            continue
        if block is None:
            _check_single(folder, info, scale)
        else:
            _check(folder, info, scale, block)
        unused = name.removesuffix(_WEIGHT) + _ACTIVATIONS
        parts = (name, scale.name, *((unused,) if unused in tensors else ()))
        found[name] = Packed(info, parts, functools.partial(apply_scale, block=block))
    return found


def apply_scale(
    raw: RawTensor, scale: RawTensor, *_unused: RawTensor, block: tuple[int, int] | None
) -> RawTensor:
    """The matrix as F32, by a scale for each (rows, columns) of `block`, or by one for all.

    Not bf16: an FP8 value times a float32 scale has up to 28 significant bits. One rounding to float32 keeps
    what the file says; rounding further, to bf16 or to a quantised format, is for whoever chose that format.
    """
    values = raw.data.float()
    if block is None:
        return RawTensor.plain(raw.info.name, values * scale.data.float())
    rows, columns = block
    width = values.shape[1]
    for index, row in enumerate(scale.data.float()):
        values[index * rows : (index + 1) * rows] *= row.repeat_interleave(min(columns, width))[:width]
    return RawTensor.plain(raw.info.name, values)


def _block(folder: Path, quantization: Any) -> tuple[int, int] | None:
    """The size of blocks; None where the config says that there are none."""
    if not isinstance(quantization, dict) or "weight_block_size" not in quantization:
        return _DEFAULT_BLOCK
    stated = quantization["weight_block_size"]
    if stated is None:
        return None
    if not (isinstance(stated, list) and len(stated) == 2 and all(type(n) is int and n > 0 for n in stated)):
        raise WeightsError(
            f"{folder}: quantization_config.weight_block_size = {stated!r:.100}: two counts are needed"
        )
    return stated[0], stated[1]


def _check_single(folder: Path, info: TensorInfo, scale: TensorInfo) -> None:
    if scale.shape not in ((), (1,)) or scale.format not in _SCALE_FORMATS:
        raise WeightsError(
            f"{folder}: FP8 tensor {info.name!r} needs a single float scale, as weight_block_size = null "
            f"says; {scale.name!r} is {scale.format} {list(scale.shape)}"
        )


def _check(folder: Path, info: TensorInfo, scale: TensorInfo, block: tuple[int, int]) -> None:
    at = f"{folder}: FP8 tensor {info.name!r}"
    if len(info.shape) != 2:
        raise WeightsError(f"{at} has shape {list(info.shape)}; only matrices can have block scales")
    expected = tuple(-(-size // step) for size, step in zip(info.shape, block, strict=True))
    if scale.shape != expected or scale.format not in _SCALE_FORMATS:
        raise WeightsError(
            f"{at} of shape {list(info.shape)} needs float scales of shape {list(expected)} for blocks of "
            f"{block[0]} x {block[1]}; {scale.name!r} is {scale.format} {list(scale.shape)}"
        )
