"""Tensors as the kernels see them: addresses, strides and structures of mohist.h."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from mohist.kernels import abi
from mohist.kernels.activation import Activation
from mohist.kernels.ops import KvCache, RowPlan
from mohist.kernels.weight import Weight
from mohist.types import SamplingParams

__all__ = [
    "INT32_MAX",
    "activation_struct",
    "cache_struct",
    "distribution",
    "plan_struct",
    "pointer",
    "rows_contiguous",
    "weight_structs",
]

INT32_MAX = 2**31 - 1


def distribution(params: SamplingParams | None) -> tuple[int, float, float, float]:
    """Top-k, temperature, top-p and min-p, as the arguments of the logprobs kernels have them."""
    if params is None:
        return 0, 1.0, 1.0, 0.0
    neutral = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1, 0, 0)
    assert neutral, f"logprobs are scored without penalties: {params}"
    assert params.temperature > 0, f"one outcome only, so nothing can be scored at temperature 0: {params}"
    return min(params.top_k, INT32_MAX), params.temperature, params.top_p, params.min_p


def rows_contiguous(x: Tensor) -> Tensor:
    """The kernels take any strides but the last. A copy made here would not be on the tape: none is made."""
    assert x.stride(-1) == 1 or x.shape[-1] == 1, f"the last dimension must be contiguous, not {x.stride()}"
    assert x.dtype == torch.float32, x.dtype
    return x


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None for none."""
    return None if tensor is None else tensor.data_ptr()


def weight_structs(weights: Sequence[Weight]) -> ctypes.Array[abi.WeightArgs]:
    """mohist_weight of each matrix; points into their data."""
    structs = (abi.WeightArgs * len(weights))()
    for struct, w in zip(structs, weights, strict=True):
        struct.data, struct.n, struct.k = w.data.data_ptr(), w.out_features, w.in_features
        struct.format = abi.FORMATS[w.format]
    return structs


def activation_struct(activation: Activation) -> abi.ActivationArgs:
    """mohist_activation."""
    return abi.ActivationArgs(abi.ACTIVATIONS[activation.kind], activation.steepness, activation.limit)


def cache_struct(cache: KvCache, value_dim: int = 0) -> abi.CacheArgs:
    """mohist_cache; `value_dim` counts where the values are part of the keys."""
    _, heads, _, key_dim, _ = cache.keys.shape
    value_dim = cache.values.shape[3] if cache.values is not None else value_dim
    return abi.CacheArgs(
        cache.keys.data_ptr(), pointer(cache.values), cache.block_size, heads, key_dim, value_dim
    )


def plan_struct(rows: RowPlan) -> abi.PlanArgs:
    """mohist_row_plan."""
    for tensor in (rows.positions_T, rows.sequence_T, rows.tables_SB):
        assert tensor.dtype == torch.int32, tensor.dtype
    return abi.PlanArgs(
        rows.positions_T.data_ptr(),
        rows.sequence_T.data_ptr(),
        rows.tables_SB.data_ptr(),
        rows.tables_SB.stride(0),
    )
