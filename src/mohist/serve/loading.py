"""How a model of this machine comes into memory: what the config says, what it will need, and loading it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mohist.cost import Prices
from mohist.engine.runner import default_cache_tokens
from mohist.errors import ConfigError
from mohist.kernels.weight import TargetFormat
from mohist.llm import LLM
from mohist.model.count import cache_values_per_token, weight_bytes
from mohist.model.family import read_config
from mohist.model.kept import kept_bytes
from mohist.serve.backend import Backend
from mohist.serve.local import LocalModel
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.source import resolve

__all__ = ["LOADER", "MOST_NAME_CHARS", "Loader", "ModelConfig", "read_aliases"]

MOST_NAME_CHARS = 200
CACHE_BYTES_PER_VALUE = 4
"""Keys and values are kept in float32."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model of this machine: what the config file, the command line and the admin API say of one."""

    source: str
    """A folder, a .gguf file, hf:ORG/NAME or pypi:PACKAGE."""
    name: str = ""
    """What requests call it; by default the last part of the source."""
    quantize: TargetFormat | None = None
    """Turn the matrices into this format; "none" keeps the formats of the file."""
    cache_tokens: int | None = None
    """Size of the key-value cache; "none": the model's context, or 16384 if that is more."""
    threads: int | None = None
    """"none": the machine's physical cores."""
    speculate: str = "lookup"
    """How tokens are guessed ahead, which changes no answer: lookup, mtp, draft:MODEL or off."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters in PEFT's files, NAME=FOLDER each; requests name the model MODEL:NAME."""
    offline: bool = False
    """Use only what was fetched before."""
    at_start: bool = True
    """Whether it is loaded when the server starts, or when it is first asked for."""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if not self.called or len(self.called) > MOST_NAME_CHARS or not self.called.isprintable():
            raise ConfigError(
                f"source = {self.source!r:.80}, name = {self.name!r:.80}: "
                f"a model needs a name of 1 to {MOST_NAME_CHARS} printable characters"
            )
        for count in ("cache_tokens", "threads"):
            value = getattr(self, count)
            if value is not None and value < 1:
                raise ConfigError(f"{count} = {value}: it must be at least 1, or none for the default")
        texts = {"source": (self.source,), "speculate": (self.speculate,), "adapters": self.adapters}
        for key, values in {**texts, "prices.currency": (self.prices.currency,)}.items():
            if any(not value.isprintable() for value in values):
                raise ConfigError(f"{key} = {values[0]!r:.80}: it has characters that cannot be printed")
        _ = self.adapter_folders

    @property
    def called(self) -> str:
        """The name that requests use."""
        return self.name or self.source.rstrip("/").replace(":", "/").rpartition("/")[2].removesuffix(".gguf")

    @property
    def adapter_folders(self) -> dict[str, Path]:
        """The adapters by name. Raises ConfigError."""
        return {name: Path(folder) for name, folder in read_pairs("adapters", "NAME=FOLDER", self.adapters)}


def settle() -> None:
    """Collect garbage, then keep the collector away from all that is left.

    It would go through a model's hundreds of thousands of objects again and again, and everything waits then.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """How a model comes into memory. The functions run on a thread and may take minutes."""

    load: Callable[[ModelConfig], Backend]
    memory_bytes: Callable[[ModelConfig], int]
    """What a model will need, known before it is loaded. Raises MohistError."""
    settle: Callable[[], None] = settle
    """Called after a model came or left."""


def load(config: ModelConfig) -> LocalModel:
    """The model, with the thread that runs it. Raises MohistError."""
    llm = LLM.load(
        config.source,
        threads=config.threads,
        cache_tokens=config.cache_tokens,
        quantize=config.quantize,
        speculate=config.speculate,
        adapters=config.adapter_folders,
        offline=config.offline,
    )
    return LocalModel(config.called, llm)


def memory_bytes(config: ModelConfig) -> int:
    """What weights and cache will take; the weights are fetched if they are not here. Raises MohistError."""
    checkpoint = open_checkpoint(resolve(config.source, offline=config.offline))
    decoder = read_config(checkpoint)
    weights = kept_bytes(checkpoint) if config.quantize is None else weight_bytes(decoder, config.quantize)
    tokens = default_cache_tokens(decoder) if config.cache_tokens is None else config.cache_tokens
    return weights + tokens * cache_values_per_token(decoder) * CACHE_BYTES_PER_VALUE


LOADER = Loader(load=load, memory_bytes=memory_bytes)
"""How a server loads its models."""


def read_aliases(pairs: Iterable[str]) -> dict[str, str]:
    """`["fast=small", ...]` as {"fast": "small", ...}. Raises ConfigError."""
    return dict(read_pairs("aliases", "ALIAS=MODEL", pairs))


def read_pairs(field: str, form: str, pairs: Iterable[str]) -> list[tuple[str, str]]:
    """The two sides of each pair. Raises ConfigError: no pair, or one name twice."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name or not value or name in found:
            raise ConfigError(f"{field}: {pair!r}: expected {form}, each name once")
        found[name] = value
    return list(found.items())
