"""Tensors that Hugging Face folders store in several: codes, and the scales that give them values.

A module for each scheme finds its tensors and says how to unpack them. What they are packed into is theirs
alone: readers of a checkpoint see one tensor, under the name that it has in an unquantised release.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mohist.errors import WeightsError
from mohist.weights import fp8, int4, mxfp4
from mohist.weights.formats import Packed, TensorInfo

__all__ = ["find_packed"]


def find_packed(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> dict[str, Packed]:
    """Every packed tensor by its name, its parts checked against each other.

    Raises WeightsError when parts are missing or do not fit, or when codes remain that no scheme explains.
    """
    found = fp8.find(folder, config, tensors) | mxfp4.find(folder, tensors)
    found |= int4.find(folder, config, tensors)
    parts = {part for packed in found.values() for part in packed.parts}
    for name, info in tensors.items():
        if info.format.is_code and name not in parts:
            raise WeightsError(
                f"{folder}: tensor {name!r:.100} is {info.format} and belongs to no packing that Mohist "
                "reads (FP8, MXFP4, INT4); take the unquantised or the FP8 release of this model, or a GGUF "
                "file of it"
            )
    return found
