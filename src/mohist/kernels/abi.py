"""The kernels' C interface, mirrored with ctypes: native/mohist.h explains every field.

`load_library` picks the shared library that this processor can run and checks that both sides agree.
"""

from __future__ import annotations

import ctypes
import platform
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from mohist.kernels.weight import WeightFormat

__all__ = [
    "ABI",
    "ACTIVATIONS",
    "FORMATS",
    "ActivationArgs",
    "AttentionArgs",
    "AttentionBackwardArgs",
    "CacheArgs",
    "ConcatArgs",
    "EmbedArgs",
    "EmbedBackwardArgs",
    "GluArgs",
    "GluBackwardArgs",
    "LayerNormArgs",
    "LightningArgs",
    "LinearArgs",
    "LinearGroupedArgs",
    "LogprobsArgs",
    "LogprobsBackwardArgs",
    "MoeArgs",
    "MoeBackwardArgs",
    "OpArgs",
    "PackArgs",
    "PlanArgs",
    "ProductArgs",
    "ProductsArgs",
    "RmsNormArgs",
    "RmsNormBackwardArgs",
    "RopeAnglesArgs",
    "RopeArgs",
    "RouteArgs",
    "RouteBackwardArgs",
    "SampleArgs",
    "SampleRowArgs",
    "ScaleArgs",
    "SelectArgs",
    "SiluArgs",
    "SiluBackwardArgs",
    "StoreArgs",
    "StoreBackwardArgs",
    "WeightArgs",
    "library_path",
    "load_library",
]

ABI = 3
FORMATS: dict[WeightFormat, int] = {
    "f32": 0,
    "bf16": 1,
    "q8_0": 2,
    "q4_0": 3,
    "q4_1": 4,
    "q4_k": 5,
    "q5_k": 6,
    "q6_k": 7,
}
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "clamped_silu": 2, "sigmoid": 3}


def _fields(*, pointers: str = "", ints: str = "", floats: str = "") -> list[tuple[str, Any]]:
    """Fields in the header's order: pointers, then int64 sizes, then floats."""
    kinds = ((pointers, c_void_p), (ints, c_int64), (floats, c_float))
    return [(name, kind) for names, kind in kinds for name in names.split()]


class WeightArgs(Structure):
    """mohist_weight."""

    _fields_ = _fields(pointers="data", ints="n k format")


class ActivationArgs(Structure):
    """mohist_activation."""

    _fields_ = _fields(ints="kind", floats="steepness limit")


class CacheArgs(Structure):
    """mohist_cache."""

    _fields_ = _fields(pointers="keys values", ints="block_size heads key_dim value_dim")


class PlanArgs(Structure):
    """mohist_row_plan."""

    _fields_ = _fields(pointers="positions sequences tables", ints="table_stride")


class OpArgs(Structure):
    """Arguments of an operation; `op` is its opcode."""

    op: int


class LinearArgs(OpArgs):
    """mohist_linear_args."""

    op = 0
    _fields_ = _fields(
        pointers="x weights bias residual y", ints="num_weights rows x_stride residual_stride y_stride"
    )


class LinearGroupedArgs(OpArgs):
    """mohist_linear_grouped_args."""

    op = 1
    _fields_ = _fields(
        pointers="x weights y", ints="groups rows x_stride x_group_stride y_stride y_group_stride"
    )


class EmbedArgs(OpArgs):
    """mohist_embed_args."""

    op = 2
    _fields_ = _fields(pointers="weight tokens y", ints="rows y_stride")


class RmsNormArgs(OpArgs):
    """mohist_rms_norm_args."""

    op = 3
    _fields_ = _fields(
        pointers="x weight residual y",
        ints="rows inner dim x_stride x_inner_stride residual_stride y_stride y_inner_stride",
        floats="eps shift",
    )


class RopeAnglesArgs(OpArgs):
    """mohist_rope_angles_args."""

    op = 4
    _fields_ = _fields(pointers="positions inv_freq scales cos_sin", ints="rows pairs num_scales period")


class RopeArgs(OpArgs):
    """mohist_rope_args."""

    op = 5
    _fields_ = _fields(
        pointers="x cos_sin y",
        ints="rows heads dim pairs offset interleaved x_stride x_head_stride y_stride y_head_stride",
    )


class GluArgs(OpArgs):
    """mohist_glu_args."""

    op = 6
    _fields_ = [
        *_fields(pointers="x y", ints="rows dim x_stride y_stride"),
        ("activation", ActivationArgs),
    ]


class StoreArgs(OpArgs):
    """mohist_store_args."""

    op = 7
    _fields_ = _fields(
        pointers="cache plan keys values",
        ints="rows key_stride key_head_stride value_stride value_head_stride",
    )


class AttentionArgs(OpArgs):
    """mohist_attention_args."""

    op = 8
    _fields_ = _fields(
        pointers="cache plan q sinks chosen y",
        ints="rows heads q_stride q_head_stride y_stride y_head_stride window num_chosen",
        floats="scale",
    )


class RouteArgs(OpArgs):
    """mohist_route_args."""

    op = 9
    _fields_ = _fields(
        pointers="logits bias chosen weights",
        ints="rows experts top_k groups top_groups sigmoid group_top2 renormalize logits_stride",
        floats="scale",
    )


class MoeArgs(OpArgs):
    """mohist_moe_args."""

    op = 10
    _fields_ = [
        *_fields(
            pointers="x chosen weights gate up down gate_bias up_bias down_bias residual y gate_up",
            ints="rows experts top_k x_stride residual_stride y_stride",
        ),
        ("activation", ActivationArgs),
    ]


class LogprobsArgs(OpArgs):
    """mohist_logprobs_args."""

    op = 11
    _fields_ = _fields(
        pointers="logits targets logprobs entropies",
        ints="rows vocab logits_stride top_k",
        floats="temperature top_p min_p",
    )


class SampleRowArgs(Structure):
    """mohist_sample_row."""

    _fields_ = [
        ("seed", c_uint64),
        ("seen", c_void_p),
        ("seen_counts", c_void_p),
        ("allowed", c_void_p),
        ("num_seen", c_int64),
        ("sample", c_uint32),
        ("position", c_uint32),
        ("top_k", c_int32),
        ("num_top", c_int32),
        *_fields(floats="temperature top_p min_p repetition_penalty presence_penalty frequency_penalty"),
    ]


class SampleArgs(OpArgs):
    """mohist_sample_args."""

    op = 12
    _fields_ = _fields(
        pointers="logits params tokens logprobs sampled_logprobs top_tokens top_logprobs",
        ints="rows vocab logits_stride max_top",
    )


class ConcatArgs(OpArgs):
    """mohist_concat_args."""

    op = 13
    _fields_ = _fields(
        pointers="a b y",
        ints="rows heads a_dim b_dim a_stride a_head_stride b_stride b_head_stride y_stride y_head_stride",
    )


class PackArgs(OpArgs):
    """mohist_pack_args."""

    op = 14
    _fields_ = _fields(pointers="rows panels", ints="n k row_stride format")


class LogprobsBackwardArgs(OpArgs):
    """mohist_logprobs_backward_args."""

    op = 15
    _fields_ = _fields(
        pointers="logits targets dlogprobs",
        ints="rows vocab logits_stride top_k",
        floats="temperature top_p min_p",
    )


class ProductArgs(Structure):
    """mohist_product."""

    _fields_ = _fields(
        pointers="a b c a_index b_index", ints="m n k a_stride b_stride c_stride transposed add"
    )


class ProductsArgs(OpArgs):
    """mohist_products_args."""

    op = 16
    _fields_ = _fields(pointers="products", ints="count")


class AttentionBackwardArgs(OpArgs):
    """mohist_attention_backward_args."""

    op = 17
    _fields_ = _fields(
        pointers="cache plan q sinks chosen dy dq dsinks dkeys dvalues",
        ints="rows heads q_stride q_head_stride dy_stride dy_head_stride window num_chosen",
        floats="scale",
    )


class RmsNormBackwardArgs(OpArgs):
    """mohist_rms_norm_backward_args."""

    op = 18
    _fields_ = _fields(
        pointers="x weight dy dx dweight",
        ints="rows inner dim x_stride x_inner_stride dy_stride dy_inner_stride",
        floats="eps shift",
    )


class GluBackwardArgs(OpArgs):
    """mohist_glu_backward_args."""

    op = 19
    _fields_ = [
        *_fields(pointers="x dy dx", ints="rows dim x_stride dy_stride"),
        ("activation", ActivationArgs),
    ]


class EmbedBackwardArgs(OpArgs):
    """mohist_embed_backward_args."""

    op = 20
    _fields_ = _fields(pointers="tokens dy dweight", ints="rows dim dy_stride")


class RouteBackwardArgs(OpArgs):
    """mohist_route_backward_args."""

    op = 21
    _fields_ = _fields(
        pointers="logits chosen dweights dlogits",
        ints="rows experts top_k sigmoid renormalize logits_stride",
        floats="scale",
    )


class MoeBackwardArgs(OpArgs):
    """mohist_moe_backward_args."""

    op = 22
    _fields_ = [
        *_fields(
            pointers="x chosen weights gate_up dy gate up down down_bias dx dweights dgate dup ddown "
            "dgate_bias dup_bias ddown_bias",
            ints="rows experts top_k dim width x_stride dy_stride",
        ),
        ("activation", ActivationArgs),
    ]


class StoreBackwardArgs(OpArgs):
    """mohist_store_backward_args."""

    op = 23
    _fields_ = _fields(pointers="gradient plan dkeys dvalues", ints="rows clear")


class ScaleArgs(OpArgs):
    """mohist_scale_args."""

    op = 24
    _fields_ = _fields(
        pointers="x residual y", ints="rows dim x_stride residual_stride y_stride", floats="factor"
    )


class SiluArgs(OpArgs):
    """mohist_silu_args."""

    op = 25
    _fields_ = _fields(pointers="x y", ints="rows dim x_stride y_stride")


class SiluBackwardArgs(OpArgs):
    """mohist_silu_backward_args."""

    op = 26
    _fields_ = _fields(pointers="x dy dx", ints="rows dim x_stride dy_stride")


class LightningArgs(OpArgs):
    """mohist_lightning_args."""

    op = 27
    _fields_ = _fields(
        pointers="states plan q k v decays y",
        ints="rows heads key_dim value_dim block_size q_stride q_head_stride k_stride k_head_stride "
        "v_stride v_head_stride reverse",
    )


class LayerNormArgs(OpArgs):
    """mohist_layer_norm_args."""

    op = 28
    _fields_ = _fields(pointers="x weight bias y", ints="rows dim x_stride y_stride", floats="eps")


class SelectArgs(OpArgs):
    """mohist_select_args."""

    op = 29
    _fields_ = _fields(
        pointers="cache plan q weights chosen",
        ints="rows heads top_k q_stride q_head_stride weights_stride",
    )


def _cpu_flags() -> frozenset[str]:
    """What /proc/cpuinfo says the processor can do; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def library_path(folder: Path | None = None) -> Path | None:
    """The best library for this processor in `folder` (default: beside this file); None if none was built."""
    folder = folder or Path(__file__).parent
    names = ["mohist_base"]
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        flags = _cpu_flags()
        if {"avx2", "fma", "f16c", "bmi2"} <= flags:
            names.append("mohist_v3")
        if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags:
            names.append("mohist_v4")
            if "avx512_vnni" in flags:
                names.append("mohist_v4_vnni")
    elif machine in ("aarch64", "arm64"):
        names.append("mohist_arm")
    for name in reversed(names):
        path = folder / f"lib{name}.so"
        if path.is_file():
            return path
    return None


def load_library(path: Path) -> ctypes.CDLL:
    """Load kernels and declare their functions.

    Raises OSError when it cannot be loaded, RuntimeError when it was built from another version's header.
    """
    library = ctypes.CDLL(str(path))
    library.mohist_abi.restype = c_int64
    library.mohist_isa.restype = c_char_p
    library.mohist_args_size.argtypes, library.mohist_args_size.restype = [c_int64], c_int64
    library.mohist_pool_create.argtypes, library.mohist_pool_create.restype = [c_int64], c_void_p
    library.mohist_pool_destroy.argtypes, library.mohist_pool_destroy.restype = [c_void_p], None
    library.mohist_pool_threads.argtypes, library.mohist_pool_threads.restype = [c_void_p], c_int64
    tape = [POINTER(c_int64), POINTER(c_void_p), c_int64]
    library.mohist_run.argtypes, library.mohist_run.restype = [c_void_p, *tape], c_int64
    library.mohist_run_definition.argtypes, library.mohist_run_definition.restype = tape, c_int64
    ours = {kind.op: ctypes.sizeof(kind) for kind in OpArgs.__subclasses__()}
    theirs = {op: library.mohist_args_size(op) for op in ours}
    if library.mohist_abi() != ABI or ours != theirs:
        raise RuntimeError(
            f"{path} was built from another version of mohist.h: rebuild it with `make kernels`"
        )
    return library
