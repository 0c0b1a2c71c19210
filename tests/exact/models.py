"""Tiny decoders of every kind in every weight format, with weights that are the same bits everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner
from mohist.kernels.abi import library_path
from mohist.kernels.activation import GELU_TANH, Activation
from mohist.kernels.kquants import STORED_BYTES, KFormat
from mohist.kernels.native import NativeOps
from mohist.kernels.ops import Ops
from mohist.kernels.weight import Weight, WeightFormat, is_quantized
from mohist.model.config import (
    DecoderConfig,
    DenseConfig,
    GqaConfig,
    IndexerConfig,
    LayerConfig,
    LightningConfig,
    MlaConfig,
    MoeConfig,
    ResidualScales,
)
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder, load_decoder
from mohist.model.rope_config import LinearScaling, Llama3Scaling, QueryGrowth, RopeConfig, YarnScaling
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import Format
from mohist.weights.quants import quantize

VOCAB = 101  # no multiple of anything
MAX_POSITIONS = 128
FORMATS: tuple[WeightFormat, ...] = ("f32", "bf16", "q8_0", "q4_0", "q4_1")
"""What we can write."""
K_QUANTS: tuple[KFormat, ...] = get_args(KFormat)
Storage = WeightFormat | Literal["mixed", "k_quants"]
"""`mixed`: every matrix in one of FORMATS, as in files of llama.cpp; `k_quants`: in one of K_QUANTS."""

_YARN = YarnScaling(factor=4.0, original_positions=32, mscale=0.8, mscale_all_dim=0.6)
_ROPE = RopeConfig(dim=32)
_GQA = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=32, rope=_ROPE)
_PAIRS = RopeConfig(dim=16, interleaved=True)
_MLA = MlaConfig(num_heads=3, q_rank=32, kv_rank=64, nope_dim=32, rope=_PAIRS, value_dim=32)
_MOE = MoeConfig(
    num_experts=12,
    top_k=3,
    width=32,
    shared_width=64,
    scoring="sigmoid",
    selection_bias=True,
    num_groups=4,
    top_groups=2,
    group_score="top2",
    renormalize=True,
    scale=2.5,
)
_MLP = DenseConfig(width=96)
_BIASED_MLP = DenseConfig(width=96, bias=True)


def _config(family: str, *layers: LayerConfig, tied: bool = False) -> DecoderConfig:
    return DecoderConfig(
        family=family,
        vocab_size=VOCAB,
        hidden_size=64,
        layers=layers,
        norm_eps=1e-6,
        tie_embeddings=tied,
        max_positions=MAX_POSITIONS,
    )


def _dense(mixer: GqaConfig | MlaConfig, **changes: Any) -> LayerConfig:
    return LayerConfig(mixer=replace(mixer, **changes), mlp=_MLP)


def _sparse(mixer: GqaConfig | MlaConfig, moe: MoeConfig, **changes: Any) -> LayerConfig:
    return LayerConfig(mixer=replace(mixer, **changes), mlp=moe)


def _lightning(layer: int, num_layers: int) -> LightningConfig:
    slope_scale = 1 - layer / (num_layers - 1 + 1e-5) + 1e-5
    return LightningConfig(num_heads=4, head_dim=32, slope_scale=slope_scale)


_LLAMA3 = RopeConfig(
    dim=32,
    scaling=Llama3Scaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=32
    ),
)
_HALF = RopeConfig(dim=16)
_LONG = RopeConfig(dim=32, scaling=YarnScaling(factor=4.0, original_positions=32))
_EXACT_ENDS = RopeConfig(dim=32, scaling=YarnScaling(factor=4.0, original_positions=32, truncate=False))
_LATENT_LONG = replace(_PAIRS, scaling=_YARN)
_GROWS = replace(_LONG, query_growth=QueryGrowth(beta=0.3, period=32))
_FLAT = replace(_MOE, num_groups=1, top_groups=1)
_ROUTED = replace(_FLAT, shared_width=0, scale=1.0)
_SOFTMAX = {"scoring": "softmax", "selection_bias": False, "group_score": "max"}
_CLAMPED = Activation(kind="clamped_silu", steepness=1.702, limit=0.5)
_GPT_OSS = replace(_ROUTED, **_SOFTMAX, biases=True, activation=_CLAMPED)
_INDEXER = IndexerConfig(num_heads=5, head_dim=32, top_k=9)
_LONG_LINEAR = RopeConfig(dim=32, theta=1e6, scaling=LinearScaling(factor=8.0))
_RESIDUAL = ResidualScales(mixer_alpha=3.5, mixer_beta=0.75, mlp_alpha=2.0, mlp_beta=1.25)
_BIASED = replace(_GQA, qkv_bias=True)
CONFIGS: dict[str, DecoderConfig] = {
    "llama": _config("llama", *[_dense(_GQA, rope=_LLAMA3)] * 2),
    "qwen2": _config("qwen2", _dense(_BIASED, rope=_LONG), _dense(_BIASED, rope=_LONG, window=19), tied=True),
    "qwen3": _config(
        "qwen3", _dense(_GQA, qk_norm="head"), _dense(_GQA, qk_norm="head", window=5), tied=True
    ),
    "deepseek_v3": _config(
        "deepseek_v3", _dense(_MLA, rope=_LATENT_LONG), _sparse(_MLA, _MOE, rope=_LATENT_LONG)
    ),
    "deepseek_v2": _config(
        "deepseek_v2", *[_sparse(_MLA, replace(_MOE, **_SOFTMAX, renormalize=False), q_rank=None)] * 2
    ),
    "deepseek_v32": _config(
        "deepseek_v32", _dense(_MLA, indexer=_INDEXER), _sparse(_MLA, _MOE, indexer=_INDEXER)
    ),
    "gpt_oss": _config(
        "gpt_oss",
        *(
            _sparse(_BIASED, _GPT_OSS, rope=_EXACT_ENDS, output_bias=True, sinks=True, window=window)
            for window in (19, None)
        ),
    ),
    "gemma3_text": replace(
        _config(
            "gemma3_text",
            *(
                LayerConfig(
                    mixer=replace(_GQA, qk_norm="head", scale=0.2, rope=rope, window=window),
                    mlp=replace(_MLP, activation=GELU_TANH),
                    post_norms=True,
                )
                for rope, window in ((_ROPE, 19), (_LONG_LINEAR, None))
            ),
            tied=True,
        ),
        norm_shift=1.0,
        embed_scale=8.0625,
    ),
    "minimax": _config(
        "minimax",
        *(
            LayerConfig(mixer=mixer, mlp=replace(_ROUTED, **_SOFTMAX), residual=_RESIDUAL)
            for mixer in (_lightning(0, 3), _GQA, _lightning(2, 3))
        ),
    ),
    "qwen3_moe": _config("qwen3_moe", *[_sparse(_GQA, replace(_ROUTED, **_SOFTMAX), qk_norm="head")] * 2),
    "deepseek": _config(
        "deepseek", _dense(_GQA), _sparse(_GQA, replace(_FLAT, **_SOFTMAX, renormalize=False, scale=1.0))
    ),
    "glm4": _config("glm4", *[replace(_dense(_BIASED, rope=_PAIRS), post_norms=True)] * 2),
    "glm4_moe": _config(
        "glm4_moe",
        _dense(_BIASED, rope=_HALF, qk_norm="head"),
        _sparse(_BIASED, _FLAT, rope=_HALF, qk_norm="head"),
    ),
    "glm4_moe_lite": _config("glm4_moe_lite", _dense(_MLA, value_dim=64), _sparse(_MLA, _FLAT, value_dim=64)),
    "minimax_m2": _config("minimax_m2", *[_sparse(_GQA, _ROUTED, rope=_HALF, qk_norm="projection")] * 2),
    "smollm3": _config(
        "smollm3",
        *(LayerConfig(mixer=replace(_GQA, rope=rope), mlp=_BIASED_MLP) for rope in (_ROPE, None)),
        tied=True,
    ),
    "seed_oss": _config("seed_oss", *[_dense(_BIASED)] * 2),
    "mistral": _config("mistral", *[_dense(_GQA, window=19)] * 2),
    "ministral3": _config("ministral3", *[_dense(_GQA, rope=_GROWS)] * 2),
}


_WIDE = replace(
    _config(
        "deepseek",
        *(
            LayerConfig(mixer=replace(_GQA, num_heads=8), mlp=mlp)
            for mlp in (
                DenseConfig(width=512),
                replace(
                    _FLAT,
                    **_SOFTMAX,
                    num_experts=5,
                    width=256,
                    shared_width=256,
                    renormalize=False,
                    scale=1.0,
                ),
            )
        ),
    ),
    hidden_size=256,
)
"""Rows of whole super-blocks, for K-quants."""


class Model(NamedTuple):
    """Which weights: a name in `CONFIGS` and how its matrices are stored (`k_quants`: those of `_WIDE`)."""

    name: str
    storage: Storage

    def __str__(self) -> str:
        return "-".join(self)


_EVERY_STORAGE = (
    "llama",
    "qwen2",
    "qwen3",
    "deepseek_v3",
    "deepseek_v2",
    "deepseek_v32",
    "gpt_oss",
    "minimax",
)
"""Every projection that there is occurs in these."""
MODELS = [
    Model(name, storage)
    for name in CONFIGS
    for storage in ((*FORMATS, "mixed") if name in _EVERY_STORAGE else ("f32", "mixed"))
]
MODELS.append(Model("deepseek", "k_quants"))


@cache
def ops(threads: int = 1, *, definition: bool = False) -> NativeOps:
    path = library_path()
    assert path is not None
    return NativeOps(path, threads, definition=definition)


@cache
def decoder(model: Model, threads: int = 1, *, definition: bool = False) -> Decoder:
    """The frozen decoder that all tests share."""
    return load(model, ops(threads, definition=definition))


def load(model: Model, on: Ops, *, trainable: bool = False) -> Decoder:
    """A decoder of one's own, through the files and the loader."""
    dtype = "bf16" if model.storage == "bf16" else "f32"
    checkpoint = open_checkpoint(Path(_folder(model.name, dtype, model.storage == "k_quants").name))
    loaded = load_decoder(
        checkpoint,
        on,
        trainable=trainable,
        quantize=model.storage if model.storage in ("q8_0", "q4_0", "q4_1") else None,
    )
    if model.storage == "mixed":
        _mix(loaded)
    if model.storage == "k_quants":
        _fill_with_k_quants(loaded)
    return loaded


def engine(
    of: Decoder, *, block_size: int = 16, num_blocks: int = 64, config: EngineConfig | None = None
) -> Engine:
    """A fresh engine."""
    return Engine(DecoderRunner(of, of.ops, num_blocks=num_blocks, block_size=block_size), config)


@cache
def _folder(name: str, dtype: Literal["f32", "bf16"], wide: bool) -> TemporaryDirectory[str]:
    """The model in files. Matrices wide enough that samples differ; norms and biases that matter."""
    made = init_decoder(_WIDE if wide else CONFIGS[name], ops(), seed=0)
    with torch.no_grad():
        for key, module in made.tensors().items():
            values = noise(f"{name} {key}", *module.shape)
            if isinstance(module, Matrix):
                assert module.parameter is not None
                module.parameter.copy_(values * 0.25)
            elif key.endswith("_bias"):
                module.value.copy_(values * 0.3)
            else:
                module.value.copy_(1 + values * 0.2)
    place = TemporaryDirectory()
    save_decoder(made, Path(place.name), format=dtype)
    return place


def _mix(loaded: Decoder) -> None:
    """Give every matrix the format that its name's digest says; the router keeps its own."""
    for key, module in loaded.tensors().items():
        if isinstance(module, Matrix) and not key.endswith(".router"):
            target = FORMATS[hashlib.blake2b(key.encode()).digest()[1] % len(FORMATS)]
            module.fill(_packed(module.dense().view(-1, *module.shape[-2:]), target))


def _fill_with_k_quants(loaded: Decoder) -> None:
    """Give every matrix but routers random blocks in the format that its name's digest says."""
    for key, module in loaded.tensors().items():
        if isinstance(module, Matrix) and not key.endswith(".router"):
            target = K_QUANTS[hashlib.blake2b(key.encode()).digest()[1] % 3]
            *groups, rows, width = module.shape
            stored = _k_rows(key, target, int(np.prod(groups)) * rows, width)
            module.fill(Weight.from_rows(target, part) for part in stored.split(rows))


def _k_rows(name: str, target: KFormat, rows: int, width: int) -> Tensor:
    """Random blocks as ggml stores them; the float16 numbers make for a deviation of about 0.1."""
    blocks = noise(name, rows, width // 256, STORED_BYTES[target]).add_(1).mul_(128).to(torch.uint8)
    d, dmin = {"q4_k": (4e-4, 3e-3), "q5_k": (2e-4, 3e-3), "q6_k": (8e-5, None)}[target]
    place = 208 if target == "q6_k" else 0
    halves = torch.tensor([d] if dmin is None else [d, dmin]).half().view(torch.uint8)
    blocks[..., place : place + len(halves)] = halves
    return blocks.flatten(1)


def _packed(matrices_GNK: Tensor, target: WeightFormat) -> Iterator[Weight]:
    for matrix_NK in matrices_GNK:
        if is_quantized(target):
            yield Weight.from_rows(target, quantize(matrix_NK.contiguous(), Format(target)).data)
        else:
            yield Weight.from_dense(matrix_NK, target)


def noise(name: str, *shape: int) -> Tensor:
    """Numbers in [-1, 1) that depend on `name` and nothing else: integers hashed by splitmix64."""
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
    x = np.arange(int(np.prod(shape)), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return torch.from_numpy((x >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - 1).view(shape)
