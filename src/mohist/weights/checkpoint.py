"""Opens a model's weights, whatever kind of file they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mohist.errors import WeightsError
from mohist.weights.files import read_json
from mohist.weights.formats import RawTensor, TensorInfo
from mohist.weights.gguf import GgufCheckpoint
from mohist.weights.safetensors import CONFIG_NAME, SafetensorsCheckpoint
from mohist.weights.safetensors_writer import save_safetensors

__all__ = ["Checkpoint", "ConfigOnly", "open_checkpoint", "open_config", "save_safetensors"]


class Checkpoint(Protocol):
    """A model on disk. Its headers are read when it is opened, its tensors when they are asked for."""

    @property
    def path(self) -> Path:
        """The folder, or the .gguf file."""

    @property
    def kind(self) -> Literal["safetensors", "gguf"]:
        """Which tensor names and config keys to expect: Hugging Face's or llama.cpp's."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name, as stored."""

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, or the GGUF metadata (see `GgufCheckpoint`)."""

    def read(self, name: str) -> RawTensor:
        """One tensor in fresh memory; FP8 with block scales arrives as F32. Raises WeightsError."""


@dataclass(frozen=True, kw_only=True)
class ConfigOnly:
    """A checkpoint whose weights are not there."""

    path: Path
    config: dict[str, Any]
    kind: Literal["safetensors"] = "safetensors"
    tensors: dict[str, TensorInfo] = field(default_factory=dict)

    def read(self, name: str) -> RawTensor:
        """No config needs a tensor of a Hugging Face folder."""
        raise AssertionError(name)


def open_config(path: Path) -> Checkpoint:
    """The checkpoint at `path`; without weights where there is only a config.json.

    Raises WeightsError.
    """
    file = path / CONFIG_NAME if path.is_dir() else path
    if file.suffix == ".json" and file.is_file() and not any(file.parent.glob("*.safetensors")):
        return ConfigOnly(path=file.parent, config=read_json(file, max_bytes=8 << 20))
    return open_checkpoint(file.parent if file.suffix == ".json" and not path.is_dir() else path)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a .gguf file, a Hugging Face folder, or a folder whose only weights are one .gguf file.

    Raises WeightsError, which says what is wrong with which file, when there is no such thing or a header is
    truncated, corrupt or hostile.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise WeightsError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        raise WeightsError(f"{path}: a single weight file has no config; open its folder, {path.parent}")
    if path.suffix in (".bin", ".pt", ".pth"):
        raise WeightsError(
            f"{path}: is a pickle, which can run any code when opened; take .safetensors or .gguf files"
        )
    return GgufCheckpoint(path)


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / CONFIG_NAME).exists():
        return SafetensorsCheckpoint(folder)
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return GgufCheckpoint(files[0])
    if files:
        names = ", ".join(file.name for file in files[:5])
        raise WeightsError(f"{folder}: has {len(files)} .gguf files; name the one to open: {names}")
    raise WeightsError(f"{folder}: has neither {CONFIG_NAME} with .safetensors weights nor a .gguf file")
