"""A decoder from a checkpoint, tensor by tensor, so that no more than one of them exists twice."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mohist.errors import ModelError
from mohist.kernels.ops import Ops
from mohist.kernels.weight import BLOCK, TargetFormat, Weight, is_quantized
from mohist.model.config import DecoderConfig
from mohist.model.decoder import Decoder
from mohist.model.family import read_config, read_origins
from mohist.model.kept import KEPT, expanded
from mohist.model.origins import Origin, locate
from mohist.model.tensors import Matrix, Vector
from mohist.weights.checkpoint import Checkpoint
from mohist.weights.formats import Format, RawTensor
from mohist.weights.quants import dequantize, quantize, widened

__all__ = ["check_tensors", "init_decoder", "load_decoder", "with_stored_mtp"]

_log = logging.getLogger(__name__)

_REDUNDANT = re.compile(
    r".*rotary_emb\.inv_freq|rope_freqs\.weight|model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight"
    r"|model\.layers\.\d+\.self_attn\.(slope_rate|(query|key|diagonal)_decay)"
)
"""Stored tensors that repeat what the config or other tensors say; MTP modules repeat embedding and head."""


def load_decoder(
    checkpoint: Checkpoint, ops: Ops, *, trainable: bool = False, quantize: TargetFormat | None = None
) -> Decoder:
    """The model in a checkpoint, computing with `ops`.

    Matrices keep their stored format where the kernels have it. Others take more memory (`KEPT` says which),
    and a warning is logged if they were quantised. `quantize` converts them all, the routers of experts
    excepted. `trainable` makes every tensor a float32 parameter. Raises ModelError, when no family reads the
    config or the tensors do not fit it.
    """
    if trainable and quantize not in (None, "f32"):
        raise ModelError(
            f"quantize = {quantize!r} with trainable = True: only float32 weights can be trained"
        )
    config = with_stored_mtp(read_config(checkpoint), checkpoint)
    decoder = Decoder(config, ops)
    origins = read_origins(checkpoint, config)
    located = {name: locate(origins, name, len(config.layers)) for name in decoder.tensors()}
    check_tensors(checkpoint, decoder, located)
    if not trainable and quantize is None:
        for stored, kept in expanded(checkpoint).items():
            _log.warning("no kernel computes with %s weights: they are %s in memory", stored, kept)
    for name, module in decoder.tensors().items():
        parts = located[name].read(checkpoint, module.shape)
        if isinstance(module, Vector):
            module.fill(dequantize(next(parts)).to(ops.device), trainable=trainable)
        elif trainable:
            module.train_from(_stacked(parts, module).to(ops.device))
        else:
            wanted = None if name.endswith(".router") and quantize != "f32" else quantize
            module.fill(_packed(name, part, wanted).to(ops.device) for part in parts)
    return decoder


def init_decoder(config: DecoderConfig, ops: Ops, *, seed: int, std: float = 0.02) -> Decoder:
    """A trainable decoder with random weights: normal matrices, norms at 1, biases and sinks at 0."""
    decoder = Decoder(config, ops)
    generator = torch.Generator().manual_seed(seed)
    for name, module in decoder.tensors().items():
        if isinstance(module, Matrix):
            module.train_from((torch.randn(module.shape, generator=generator) * std).to(ops.device))
        else:
            start = torch.zeros if name.endswith(("_bias", ".sinks")) else torch.ones
            module.fill(start(module.shape, device=ops.device), trainable=True)
    return decoder


def _stacked(parts: Iterator[RawTensor], module: Matrix) -> Tensor:
    matrix = torch.empty(module.shape)
    for group, part in zip(matrix.view(-1, *module.shape[-2:]), parts, strict=True):
        group.copy_(dequantize(part))
    return matrix


def _packed(name: str, raw: RawTensor, wanted: TargetFormat | None) -> Weight:
    """Pack one matrix in the wanted format, or in the one it is kept in; equal formats keep their bits."""
    target = wanted or KEPT[raw.info.format]
    if not is_quantized(target):
        keeps_bits = target == "bf16" and raw.info.format is Format.BF16
        return Weight.from_dense(raw.data if keeps_bits else dequantize(raw), target)
    if raw.info.format is Format.Q5_0 and target == "q8_0":
        raw = widened(raw)
    elif raw.info.format != target:
        if raw.info.shape[-1] % BLOCK:
            raise ModelError(
                f"quantize = {target!r}: rows of {name!r} have {raw.info.shape[-1]} entries, "
                f"not a multiple of {BLOCK}; choose bf16 or f32"
            )
        raw = quantize(dequantize(raw), Format(target), raw.info.name)
    return Weight.from_rows(target, raw.data)


def with_stored_mtp(config: DecoderConfig, checkpoint: Checkpoint) -> DecoderConfig:
    """Configs name MTP modules even where the weights come without them, as transformers saves models."""
    first = f"model.layers.{len(config.layers)}."
    if config.mtp_layers and not any(name.startswith(first) for name in checkpoint.tensors):
        return dataclasses.replace(config, mtp_layers=0)
    return config


def check_tensors(checkpoint: Checkpoint, decoder: Decoder, located: Mapping[str, Origin]) -> None:
    """Compare names and shapes, before anything large is read."""
    needed = {}
    for name, module in decoder.tensors().items():
        needed |= located[name].sources(module.shape)
    stored = checkpoint.tensors
    redundant = {name for name in stored if _is_redundant(name, decoder.config)}
    faults = [f"missing: {name} {list(shape)}" for name, shape in needed.items() if name not in stored]
    faults += [f"unknown: {name}" for name in stored if name not in needed and name not in redundant]
    faults += [
        f"misshapen: {name} is {list(stored[name].shape)}, should be {list(shape)}"
        for name, shape in needed.items()
        if name in stored and stored[name].shape != shape
    ]
    if faults:
        more = f"\n  ... and {len(faults) - 20} more" if len(faults) > 20 else ""
        listed = "\n  ".join(faults[:20])
        raise ModelError(
            f"{checkpoint.path}: the tensors do not fit the {decoder.config.family} config:\n  {listed}{more}"
        )


def _is_redundant(name: str, config: DecoderConfig) -> bool:
    if config.tie_embeddings and name == "lm_head.weight":
        return True
    block = re.match(r"blk\.(\d+)\.", name)
    beyond = block is not None and int(block[1]) >= len(config.layers)
    return beyond or _REDUNDANT.fullmatch(name) is not None
