"""What stored weights become in memory, and how much of it they take."""

from __future__ import annotations

from collections import Counter

from mohist.kernels.weight import WeightFormat, group_bytes, group_values, is_quantized
from mohist.weights.checkpoint import Checkpoint
from mohist.weights.formats import Format, TensorInfo

__all__ = ["KEPT", "expanded", "kept_bytes"]

KEPT: dict[Format, WeightFormat] = {
    Format.F32: "f32",
    Format.F16: "f32",
    Format.BF16: "bf16",
    Format.F8_E4M3: "f32",
    Format.Q8_0: "q8_0",
    Format.Q4_0: "q4_0",
    Format.Q4_1: "q4_1",
    Format.Q5_0: "q8_0",
    Format.Q5_1: "f32",
    Format.Q4_K: "q4_k",
    Format.Q5_K: "q5_k",
    Format.Q6_K: "q6_k",
    Format.MXFP4: "bf16",
}
"""The format of a matrix in memory: its own where the kernels have it, else one that holds all its values."""


def kept_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of a checkpoint's weights in memory, without `quantize`; vectors are float32."""
    return sum(map(_bytes, checkpoint.tensors.values()))


def expanded(checkpoint: Checkpoint) -> dict[Format, WeightFormat]:
    """Quantised formats in the file that no kernel computes with, and what their values are turned into."""
    numbers = Counter(info.format for info in checkpoint.tensors.values())
    return {
        stored: KEPT[stored]
        for stored in numbers
        if (stored.is_block or stored is Format.F8_E4M3) and not is_quantized(KEPT[stored])
    }


def _bytes(info: TensorInfo) -> int:
    kept = "f32" if len(info.shape) < 2 else KEPT[info.format]
    return info.num_values * group_bytes(kept) // group_values(kept)
