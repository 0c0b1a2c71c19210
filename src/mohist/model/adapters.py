"""LoRA adapters (arXiv 2106.09685) in PEFT's files, and many of them beside one frozen decoder.

Only matrices that a Hugging Face module holds alone can be adapted: no experts, and of latent attention
neither `key_up` nor `value_up`. Shape suffixes: N, K are rows and columns of a matrix, R is a rank.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from mohist.errors import ConfigError, WeightsError
from mohist.kernels.weight import LowRankTerm, Weight
from mohist.model.decoder import Decoder
from mohist.model.family import family_named
from mohist.model.origins import Origin, Plain, locate
from mohist.model.tensors import Matrix, packed_factors
from mohist.weights.files import read_json

__all__ = [
    "CONFIG_NAME",
    "PREFIX",
    "WEIGHTS_NAME",
    "Adapters",
    "Span",
    "adaptable",
    "read_adapter",
    "stored_stem",
]

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_UNREAD = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")


class Difference(NamedTuple):
    """scale * B A, to be added to a matrix [N, K]."""

    a_RK: Tensor
    b_NR: Tensor
    scale: float


class Span(NamedTuple):
    """Rows `start..end` of a forward pass belong to one adapter."""

    adapter: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Adapter:
    key: bytes
    """Digest of its files: equal keys mean equal differences."""
    factors: Mapping[str, tuple[Weight, Weight]]
    """A and scale * B, by the name of the matrix."""


class Adapters:
    """The adapters of a frozen decoder by name, any number of them at work in one forward pass."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._adapters: dict[str, _Adapter] = {}

    @property
    def keys(self) -> dict[str, bytes]:
        """What tells the adapters apart, by name: a digest of each one's content."""
        return {name: adapter.key for name, adapter in self._adapters.items()}

    def add(self, name: str, folder: Path) -> None:
        """Read an adapter from PEFT's files. Raises WeightsError, or ConfigError for a name that is taken."""
        if name in self._adapters:
            raise ConfigError(f"adapter {name!r} is there already: remove it first, or choose another name")
        device = self._decoder.ops.device
        factors = {
            matrix: packed_factors(found.a_RK.to(device), found.b_NR.to(device), found.scale)
            for matrix, found in read_adapter(self._decoder, folder).items()
        }
        content = b"".join((folder / file).read_bytes() for file in (CONFIG_NAME, WEIGHTS_NAME))
        self._adapters[name] = _Adapter(hashlib.blake2b(content, digest_size=32).digest(), factors)

    def remove(self, name: str) -> None:
        """Forget an adapter. Raises ConfigError, if there is none of that name."""
        if name not in self._adapters:
            raise ConfigError(
                f"there is no adapter {name!r}; there are {', '.join(self._adapters) or 'none'}"
            )
        del self._adapters[name]

    @contextmanager
    def at_work(self, spans: Sequence[Span]) -> Generator[None]:
        """While this lasts, the decoder adds to the rows of each span what its adapter says."""
        terms: dict[str, list[LowRankTerm]] = {}
        for span in spans:
            for matrix, (a, b) in self._adapters[span.adapter].factors.items():
                terms.setdefault(matrix, []).append(LowRankTerm(a, b, span.start, span.end))
        matrices = [(self._matrix(name), tuple(found)) for name, found in terms.items()]
        for matrix, found in matrices:
            matrix.terms = found
        try:
            yield
        finally:
            for matrix, _ in matrices:
                matrix.terms = ()

    def _matrix(self, name: str) -> Matrix:
        matrix = self._decoder.get_submodule(name)
        assert isinstance(matrix, Matrix), name
        return matrix


def read_adapter(decoder: Decoder, folder: Path) -> dict[str, Difference]:
    """The float32 differences that PEFT's files in `folder` hold, by the names of the decoder's matrices.

    Raises WeightsError, when they use what is not supported here (DoRA, biases, ranks by pattern, embeddings)
    or do not fit the decoder.
    """
    scale = _scale(read_json(folder / CONFIG_NAME, max_bytes=1 << 20), folder)
    able = adaptable(decoder)
    names = {stored_stem(decoder, name): name for name in able}
    tensors = load_file(folder / WEIGHTS_NAME)
    found: dict[str, Difference] = {}
    while tensors:
        stored = min(tensors)
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_[AB]\.weight", stored)
        stem = match[1] if match else ""
        a_RK, b_NR = (tensors.pop(f"{PREFIX}{stem}.lora_{half}.weight", None) for half in "AB")
        if stem not in names or a_RK is None or b_NR is None:
            raise WeightsError(f"{folder}: {stored} adapts nothing that this model lets be adapted")
        shape = able[names[stem]].shape
        if (len(b_NR), a_RK.shape[1]) != shape or len(a_RK) != b_NR.shape[1]:
            raise WeightsError(f"{folder}: {stem} is {list(b_NR.shape)} x {list(a_RK.shape)}, not {shape}")
        found[names[stem]] = Difference(a_RK.float(), b_NR.float(), scale)
    return found


def adaptable(decoder: Decoder) -> dict[str, Matrix]:
    """The matrices that are the weight of one linear module of Hugging Face's model, by name."""
    return {
        name: module
        for name, module in decoder.tensors().items()
        if isinstance(module, Matrix) and _can_be_adapted(decoder, name, module)
    }


def stored_stem(decoder: Decoder, name: str) -> str:
    """The Hugging Face module that holds a matrix of ours."""
    return _origin(decoder, name).name.removesuffix(".weight")


def _can_be_adapted(decoder: Decoder, name: str, module: Matrix) -> bool:
    if len(module.shape) != 2 or name in ("embed", "head") or name.endswith(".router"):
        return False
    return name.startswith("layers.") and type(_origin(decoder, name)) is Plain


def _origin(decoder: Decoder, name: str) -> Origin:
    origins = family_named(decoder.config.family).hf_origins(decoder.config)
    return locate(origins, name, len(decoder.config.layers))


def _scale(config: Mapping[str, Any], folder: Path) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{folder}: peft_type = {config.get('peft_type')!r}: only LORA is read")
    for key in _UNREAD:
        if config.get(key):
            raise WeightsError(f"{folder}: {key} = {config[key]!r}: adapters with it are not read")
    if config.get("bias", "none") != "none":
        raise WeightsError(f"{folder}: bias = {config['bias']!r}: only adapters without biases are read")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise WeightsError(
            f"{folder}: r = {rank!r}, lora_alpha = {alpha!r}: a positive rank and a number expected"
        )
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
