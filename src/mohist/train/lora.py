"""LoRA (arXiv 2106.09685): frozen matrices with trained low-rank differences, in PEFT's files."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mohist.errors import ConfigError
from mohist.model.adapters import CONFIG_NAME, PREFIX, WEIGHTS_NAME, adaptable, read_adapter, stored_stem
from mohist.model.decoder import Decoder
from mohist.model.tensors import LowRank, Matrix
from mohist.weights.files import write_whole

__all__ = ["LoraConfig", "add_lora", "has_lora", "load_adapter", "save_adapter"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices get differences, and of what rank."""

    rank: int = 16
    """Columns of B and rows of A."""
    alpha: float = 32.0
    """The difference is alpha / rank times B A."""
    targets: tuple[str, ...] = ()
    """Names of matrices, such as q,v,up,down; empty for every matrix that can be adapted."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank}: it must be at least 1")


def add_lora(decoder: Decoder, config: LoraConfig, *, seed: int) -> None:
    """Freeze the decoder and adapt its target matrices: A uniform as in PEFT, B zero, so nothing changes yet.

    Raises ConfigError, when a target is no matrix that can be adapted.
    """
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for module in _targets(decoder, config.targets).values():
        rows, columns = module.shape[-2:]
        bound = 1 / math.sqrt(columns)
        a_RK = torch.empty(config.rank, columns).uniform_(-bound, bound, generator=generator)
        _adapt(decoder, module, a_RK, torch.zeros(rows, config.rank), config.alpha / config.rank)


def has_lora(decoder: Decoder) -> bool:
    """Whether any matrix is adapted."""
    return any(isinstance(m, Matrix) and m.low_rank is not None for m in decoder.tensors().values())


def save_adapter(decoder: Decoder, folder: Path, *, base: str) -> None:
    """Write PEFT's two files; `base` is where the frozen model comes from, for whoever opens them."""
    tensors: dict[str, Tensor] = {}
    adapted = {
        name: m.low_rank for name, m in decoder.tensors().items() if isinstance(m, Matrix) and m.low_rank
    }
    for name, low_rank in adapted.items():
        stem = PREFIX + stored_stem(decoder, name)
        tensors[f"{stem}.lora_A.weight"] = low_rank.a.detach().cpu()
        tensors[f"{stem}.lora_B.weight"] = low_rank.b.detach().cpu()
    first = next(iter(adapted.values()))
    rank = len(first.a)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "target_modules": sorted({stored_stem(decoder, name).rpartition(".")[2] for name in adapted}),
        "bias": "none",
        "lora_dropout": 0.0,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    with write_whole(folder / CONFIG_NAME) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())


def load_adapter(decoder: Decoder, folder: Path) -> None:
    """Freeze the decoder and adapt it as PEFT's files in `folder` say (see `read_adapter`)."""
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    able = adaptable(decoder)
    for name, found in read_adapter(decoder, folder).items():
        _adapt(decoder, able[name], *found)


def _adapt(decoder: Decoder, module: Matrix, a_RK: Tensor, b_NR: Tensor, scale: float) -> None:
    device = decoder.ops.device
    module.adapt(LowRank(a_RK.to(device), b_NR.to(device), scale))


def _targets(decoder: Decoder, targets: tuple[str, ...]) -> dict[str, Matrix]:
    able = adaptable(decoder)
    last = {name: name.rpartition(".")[2] for name in able}
    for target in targets:
        if target not in last.values():
            known = ", ".join(dict.fromkeys(last.values()))
            raise ConfigError(f"targets: {target!r} is no matrix that LoRA can adapt here; there are {known}")
    return {name: module for name, module in able.items() if not targets or last[name] in targets}
