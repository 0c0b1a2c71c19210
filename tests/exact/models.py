"""Tiny decoders of every kind in every weight format, with weights that are the same bits everywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner
from mohist.kernels.abi import library_path
from mohist.kernels.native import NativeOps
from mohist.kernels.ops import Ops
from mohist.kernels.weight import Weight, WeightFormat, is_quantized
from mohist.model.config import (
    DecoderConfig,
    DenseConfig,
    GqaConfig,
    LayerConfig,
    Llama3Scaling,
    MlaConfig,
    MoeConfig,
    RopeConfig,
    YarnScaling,
)
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder, load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import Format
from mohist.weights.quants import quantize

VOCAB = 101  # no multiple of anything
MAX_POSITIONS = 128
FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
Storage = WeightFormat | Literal["mixed"]
"""`mixed`: every matrix in a format of its own, as in files of llama.cpp."""

_YARN = YarnScaling(factor=4.0, original_positions=32, mscale=0.8, mscale_all_dim=0.6)
_GQA = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=32)
_MLA = MlaConfig(num_heads=3, q_rank=32, kv_rank=64, nope_dim=32, rope_dim=16, value_dim=32)
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


def _config(
    family: str, layers: tuple[LayerConfig, ...], rope: RopeConfig, *, tied: bool = False
) -> DecoderConfig:
    return DecoderConfig(
        family=family,
        vocab_size=VOCAB,
        hidden_size=64,
        layers=layers,
        rope=rope,
        norm_eps=1e-6,
        tie_embeddings=tied,
        max_positions=MAX_POSITIONS,
    )


def _dense(*mixers: GqaConfig) -> tuple[LayerConfig, ...]:
    return tuple(LayerConfig(mixer=mixer, mlp=_MLP) for mixer in mixers)


_LLAMA3 = Llama3Scaling(
    factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_positions=32
)
CONFIGS: dict[str, DecoderConfig] = {
    "llama": _config("llama", _dense(_GQA, _GQA), RopeConfig(dim=32, scaling=_LLAMA3)),
    "qwen2": _config(
        "qwen2",
        _dense(replace(_GQA, qkv_bias=True), replace(_GQA, qkv_bias=True, window=19)),
        RopeConfig(dim=32, scaling=replace(_YARN, mscale=None, mscale_all_dim=None)),
        tied=True,
    ),
    "qwen3": _config(
        "qwen3",
        _dense(replace(_GQA, qk_norm=True), replace(_GQA, qk_norm=True, window=5)),
        RopeConfig(dim=32),
        tied=True,
    ),
    "deepseek_v3": _config(
        "deepseek_v3",
        (LayerConfig(mixer=_MLA, mlp=_MLP), LayerConfig(mixer=_MLA, mlp=_MOE)),
        RopeConfig(dim=16, interleaved=True, scaling=_YARN),
    ),
    "deepseek_v2": _config(
        "deepseek_v2",
        tuple(
            LayerConfig(
                mixer=replace(_MLA, q_rank=None),
                mlp=replace(
                    _MOE, scoring="softmax", selection_bias=False, group_score="max", renormalize=False
                ),
            )
            for _ in range(2)
        ),
        RopeConfig(dim=16, interleaved=True),
    ),
}


class Model(NamedTuple):
    """Which weights: a name in `CONFIGS` and how its matrices are stored."""

    name: str
    storage: Storage

    def __str__(self) -> str:
        return "-".join(self)


MODELS = [Model(name, storage) for name in CONFIGS for storage in (*FORMATS, "mixed")]


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
    checkpoint = open_checkpoint(Path(_folder(model.name, "bf16" if model.storage == "bf16" else "f32").name))
    loaded = load_decoder(
        checkpoint,
        on,
        trainable=trainable,
        quantize=model.storage if model.storage in ("q8_0", "q4_0", "q4_1") else None,
    )
    if model.storage == "mixed":
        _mix(loaded)
    return loaded


def engine(
    of: Decoder, *, block_size: int = 16, num_blocks: int = 64, config: EngineConfig | None = None
) -> Engine:
    """A fresh engine."""
    return Engine(DecoderRunner(of, of.ops, num_blocks=num_blocks, block_size=block_size), config)


@cache
def _folder(name: str, dtype: Literal["f32", "bf16"]) -> TemporaryDirectory[str]:
    """The model in files. Matrices wide enough that samples differ; norms and biases that matter."""
    made = init_decoder(CONFIGS[name], ops(), seed=0)
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
