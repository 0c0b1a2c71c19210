"""A model's tensors as another kind of file stores them, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mohist.errors import WeightsError
from mohist.kernels import load_ops
from mohist.model.decoder import Decoder
from mohist.model.family import family_named, gguf_family_named, read_config, read_origins
from mohist.model.gguf import ROPE_DIVISORS, GgufFile
from mohist.model.gguf_metadata import rope_divisors
from mohist.model.load import check_tensors, with_stored_mtp
from mohist.model.origins import Origin, assembled, locate
from mohist.model.tensors import Matrix
from mohist.weights import mxfp4
from mohist.weights.checkpoint import Checkpoint
from mohist.weights.closest import closest_q8_0
from mohist.weights.formats import Format, RawTensor, TensorInfo
from mohist.weights.quants import dequantize, quantize

__all__ = ["Conversion", "requantized"]

_PLAIN = {Format.F16: Format.F16, Format.BF16: Format.BF16, Format.MXFP4: Format.BF16}
"""What holds every value of a stored format; f32 for all others."""
_KEPT = {**_PLAIN, Format.MXFP4: Format.MXFP4}
"""The same for a GGUF file."""
_DTYPE_NAMES = {Format.F32: "float32", Format.F16: "float16", Format.BF16: "bfloat16"}
_FOUR_BITS = (Format.Q4_0, Format.Q4_1)
_ROUTER = "ffn_gate_inp.weight"


class Conversion:
    """A model from one kind of file, as another kind stores it. Nothing is rounded unless `format` asks.

    Without `format` matrices keep MXFP4, or the plain format that holds their values (GGUF), or all tensors
    get the smallest one that holds all of them (safetensors, which has one `dtype`). A GGUF file keeps
    vectors and routers in f32, and with a 4-bit format embedding and head in q8_0, as llama.cpp does; rows
    that are no whole number of blocks keep their format. MTP modules do not go into GGUF files.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, kind: Literal["safetensors", "gguf"], format: Format | None
    ) -> None:
        """Raises ModelError when no family reads the model, or its family cannot be written that way."""
        if kind == "safetensors" and format is not None and format not in _DTYPE_NAMES:
            raise WeightsError(
                f"format = {format}: safetensors folders hold {', '.join(_DTYPE_NAMES)}; write a GGUF file"
            )
        self.config = with_stored_mtp(read_config(checkpoint), checkpoint)
        self._checkpoint, self._kind, self._wanted = checkpoint, kind, format
        decoder = Decoder(self.config, load_ops())
        num_layers = len(self.config.layers)
        origins = read_origins(checkpoint, self.config)
        self._from = {name: locate(origins, name, num_layers) for name in decoder.tensors()}
        check_tensors(checkpoint, decoder, self._from)
        kept = {
            n: m for n, m in decoder.tensors().items() if kind == "safetensors" or not n.startswith("mtp.")
        }
        self._shapes: dict[str, tuple[int, ...]] = {name: module.shape for name, module in kept.items()}
        self._is_matrix = {name: isinstance(module, Matrix) for name, module in kept.items()}
        targets = self._target_origins()
        self._to = {name: locate(targets, name, num_layers) for name in self._shapes}
        self._dtype = Format.F32 if kind == "gguf" else (format or self._smallest())

    @property
    def infos(self) -> list[TensorInfo]:
        """Every tensor as it will be stored, in order."""
        found: dict[str, TensorInfo] = {}
        for name, shape in self._shapes.items():
            for stored, stored_shape in self._to[name].sources(shape).items():
                found[stored] = TensorInfo(stored, self._format(name), stored_shape)
        return [*found.values(), *(raw.info for raw in self._rope_table())]

    def tensors(self) -> Iterator[RawTensor]:
        """The tensors of `infos`."""
        formats = {info.name: info.format for info in self.infos}

        for stored, tensor in assembled((self._to[name], self._read(name)) for name in self._shapes):
            yield encoded(stored, tensor, formats[stored])
        yield from self._rope_table()

    def hf_config(self) -> dict[str, Any]:
        """The content of config.json."""
        config = family_named(self.config.family).config_to_hf(self.config)
        return config | {"dtype": _DTYPE_NAMES[self._dtype]}

    def gguf_metadata(self) -> dict[str, Any]:
        """The metadata that is about the model: the architecture and its keys."""
        architecture, keys = gguf_family_named(self.config.family).config_to_gguf(self.config)
        return {
            "general.architecture": architecture,
            **{f"{architecture}.{key}": value for key, value in keys.items()},
        }

    def _target_origins(self) -> Mapping[str, Origin]:
        name = self.config.family
        if self._kind == "safetensors":
            return family_named(name).hf_origins(self.config)
        return gguf_family_named(name).gguf_origins(self.config, GgufFile.empty(name))

    def _stored_format(self, name: str) -> Format:
        first = next(iter(self._from[name].sources(self._shapes[name])))
        return self._checkpoint.tensors[first].format

    def _smallest(self) -> Format:
        """The smallest plain format that holds every value of every tensor."""
        names = [name for name in self._shapes if not name.endswith(".router_bias")]
        # GGUF files keep vectors and routers in f32, whatever the model was made of.
        wide = [name for name in names if not self._is_matrix[name] or name.endswith(".router")]
        plain = {_PLAIN.get(self._stored_format(name), Format.F32) for name in set(names).difference(wide)}
        if plain == {Format.BF16} or plain == {Format.F16}:
            (format,) = plain
            values = (self._read(name) for name in wide)
            if all(torch.equal(v.to(format.dtype).float(), v.float()) for v in values):
                return format
        return Format.F32

    def _format(self, name: str) -> Format:
        """How the target stores the tensor that we call `name`."""
        if self._kind == "safetensors":
            return Format.F32 if name.endswith(".router_bias") else self._dtype
        if not self._is_matrix[name] or name.endswith(".router"):
            return Format.F32
        is_edge = name in ("embed", "head")
        kept = _KEPT.get(self._stored_format(name), Format.F32)
        return chosen(self._wanted, kept, self._shapes[name][-1], is_edge=is_edge)

    def _read(self, name: str) -> Tensor:
        """A tensor of ours, in the plain format that holds its values."""
        shape = self._shapes[name]
        parts = [plain_values(raw) for raw in self._from[name].read(self._checkpoint, shape)]
        return torch.stack(parts).view(shape) if len(shape) == 3 else parts[0].reshape(shape)

    def _rope_table(self) -> list[RawTensor]:
        rope = self.config.layers[0].mixer.rope
        divisors = rope_divisors(rope) if self._kind == "gguf" and rope is not None else None
        return [] if divisors is None else [RawTensor.plain(ROPE_DIVISORS, torch.tensor(divisors))]


def requantized(
    checkpoint: Checkpoint, format: Format | None
) -> tuple[list[TensorInfo], Iterator[RawTensor]]:
    """The tensors of a GGUF file under their own names: matrices in `format`, all others as they are."""
    infos: list[TensorInfo] = []
    for info in checkpoint.tensors.values():
        target = info.format
        is_matrix = len(info.shape) > 1 and info.name.endswith(".weight")
        if format is not None and is_matrix and not info.name.endswith(_ROUTER):
            is_edge = info.name in ("token_embd.weight", "output.weight")
            target = chosen(format, info.format, info.shape[-1], is_edge=is_edge)
        infos.append(TensorInfo(info.name, target, info.shape))

    def tensors() -> Iterator[RawTensor]:
        for info in infos:
            raw = checkpoint.read(info.name)
            same = raw.info.format == info.format
            yield raw if same else encoded(info.name, plain_values(raw), info.format)

    return infos, tensors()


def chosen(wanted: Format | None, kept: Format, row_values: int, *, is_edge: bool) -> Format:
    """The format of a matrix: the wanted one where its rows can have it, else what it is kept in."""
    if wanted is None or row_values % wanted.block_values:
        return kept
    return Format.Q8_0 if is_edge and wanted in _FOUR_BITS else wanted


def plain_values(raw: RawTensor) -> Tensor:
    """The values in the plain format that holds them."""
    return raw.data if raw.info.format in (Format.F16, Format.BF16) else dequantize(raw)


def encoded(name: str, values: Tensor, format: Format) -> RawTensor:
    """`values` as a tensor of this name and format. Raises WeightsError when they cannot be quantised."""
    if not format.is_block:
        return RawTensor.plain(name, values.to(format.dtype).contiguous())
    if format is Format.MXFP4:
        return mxfp4.pack(values, name)
    matrix = values.float().reshape(-1, values.shape[-1])
    rows = closest_q8_0(matrix, name) if format is Format.Q8_0 else quantize(matrix, format, name)
    return RawTensor(TensorInfo(name, format, tuple(values.shape)), rows.data)
