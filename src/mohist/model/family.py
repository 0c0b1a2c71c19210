"""Finds the family that a checkpoint belongs to. A family is a file in `families`; nothing lists them."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np

from mohist.errors import ModelError
from mohist.model import families
from mohist.model.config import DecoderConfig
from mohist.model.fields import Fields
from mohist.model.gguf import ROPE_DIVISORS, GgufFile
from mohist.model.origins import Origin
from mohist.weights.checkpoint import Checkpoint
from mohist.weights.quants import dequantize

__all__ = [
    "Family",
    "GgufFamily",
    "all_families",
    "family_named",
    "gguf_family_named",
    "read_config",
    "read_origins",
]


class Family(Protocol):
    """What a file in `mohist.model.families` defines."""

    MODEL_TYPES: tuple[str, ...]
    """Values of `model_type` in config.json that it reads."""
    GGUF_ARCHITECTURES: tuple[str, ...]
    """Values of `general.architecture` in GGUF files that it reads."""

    def config_from_hf(self, fields: Fields) -> DecoderConfig:
        """Our config from config.json."""
        ...

    def config_to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        """The content of config.json for a model of this family."""
        ...

    def hf_origins(self, config: DecoderConfig) -> Mapping[str, Origin]:
        """Where a Hugging Face folder keeps our tensors."""
        ...

    def config_from_gguf(self, file: GgufFile) -> DecoderConfig:
        """Our config from a GGUF file."""
        ...

    def gguf_origins(self, config: DecoderConfig, file: GgufFile) -> Mapping[str, Origin]:
        """Where a GGUF file keeps our tensors."""
        ...


class GgufFamily(Family, Protocol):
    """A family that can be written as GGUF, too."""

    def config_to_gguf(self, config: DecoderConfig) -> tuple[str, dict[str, Any]]:
        """The architecture, and its metadata without the prefix, which `config_from_gguf` reads."""
        ...


def all_families() -> dict[str, Family]:
    """Every family by the name of its file."""
    names = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    return {name: cast(Family, importlib.import_module(f"{families.__name__}.{name}")) for name in names}


def family_named(name: str) -> Family:
    """The family in `families/NAME.py`."""
    return all_families()[name]


def gguf_family_named(name: str) -> GgufFamily:
    """The family in `families/NAME.py`. Raises ModelError, when it cannot be written as GGUF."""
    family = family_named(name)
    if not hasattr(family, "config_to_gguf"):
        able = [known for known, f in all_families().items() if hasattr(f, "config_to_gguf")]
        raise ModelError(
            f"the {name} family cannot be written as GGUF: keep its Hugging Face folder. Families that can: "
            + ", ".join(able)
        )
    return cast(GgufFamily, family)


def read_config(checkpoint: Checkpoint) -> DecoderConfig:
    """The decoder that a checkpoint holds. Raises ModelError, when no family reads it as it is."""
    if checkpoint.kind == "gguf":
        file = _gguf_file(checkpoint)
        return _closed(family_named(file.fields.family).config_from_gguf(file), file.fields)
    model_type = checkpoint.config.get("model_type")
    name = _find("model_type", model_type, {n: f.MODEL_TYPES for n, f in all_families().items()})
    fields = Fields(checkpoint.config, family=name, where="config.json")
    return _closed(family_named(name).config_from_hf(fields), fields)


def read_origins(checkpoint: Checkpoint, config: DecoderConfig) -> Mapping[str, Origin]:
    """Where the checkpoint keeps our tensors."""
    family = family_named(config.family)
    if checkpoint.kind == "gguf":
        return family.gguf_origins(config, _gguf_file(checkpoint))
    return family.hf_origins(config)


def _closed(config: DecoderConfig, fields: Fields) -> DecoderConfig:
    fields.close()
    return config


def _gguf_file(checkpoint: Checkpoint) -> GgufFile:
    architecture = checkpoint.config.get("general.architecture")
    known = {name: family.GGUF_ARCHITECTURES for name, family in all_families().items()}
    name = _find("general.architecture", architecture, known)
    divisors = None
    if ROPE_DIVISORS in checkpoint.tensors:
        divisors = tuple(dequantize(checkpoint.read(ROPE_DIVISORS)).tolist())
    return GgufFile(
        _metadata(checkpoint, f"{architecture}.", name),
        _metadata(checkpoint, "tokenizer.ggml.", name),
        checkpoint.tensors.keys(),
        divisors,
    )


def _metadata(checkpoint: Checkpoint, prefix: str, family: str) -> Fields:
    pairs = {
        key.removeprefix(prefix): value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in checkpoint.config.items()
        if key.startswith(prefix)
    }
    return Fields(pairs, family=family, where=f"GGUF metadata {prefix}*")


def _find(key: str, value: object, known: Mapping[str, tuple[str, ...]]) -> str:
    for name, values in known.items():
        if value in values:
            return name
    types = sorted(t for values in known.values() for t in values)
    near = difflib.get_close_matches(str(value), types, n=1, cutoff=0)
    raise ModelError(
        f"{key} = {value!r}: no family reads this; the nearest is {near[0]!r}. Known: {', '.join(types)}"
    )
