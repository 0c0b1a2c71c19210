"""LoRA (arXiv 2106.09685): frozen matrices with trained low-rank differences, in PEFT's files.

Only matrices that a Hugging Face module holds alone can be adapted: no experts, and of latent attention
neither `key_up` nor `value_up`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mohist.errors import ConfigError, WeightsError
from mohist.model.decoder import Decoder
from mohist.model.family import family_named
from mohist.model.origins import Plain, locate
from mohist.model.tensors import LowRank, Matrix
from mohist.weights.files import read_json, write_whole

__all__ = ["LoraConfig", "add_lora", "has_lora", "load_adapter", "save_adapter"]

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


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
        stem = _PREFIX + _stored_stem(decoder, name)
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
        "target_modules": sorted({_stored_stem(decoder, name).rpartition(".")[2] for name in adapted}),
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
    """Freeze the decoder and adapt it as PEFT's files in `folder` say.

    Raises WeightsError, when they use what is not supported here (DoRA, biases, ranks by pattern, embeddings)
    or do not fit the decoder.
    """
    config = read_json(folder / CONFIG_NAME, max_bytes=1 << 20)
    scale = _scale(config, folder)
    for parameter in decoder.parameters():
        parameter.requires_grad_(False)
    stems = {
        _stored_stem(decoder, name): module
        for name, module in decoder.tensors().items()
        if isinstance(module, Matrix) and _can_be_adapted(decoder, name, module)
    }
    tensors = load_file(folder / WEIGHTS_NAME)
    while tensors:
        name = min(tensors)
        match = re.fullmatch(re.escape(_PREFIX) + r"(.+)\.lora_[AB]\.weight", name)
        stem = match[1] if match else ""
        halves = [tensors.pop(f"{_PREFIX}{stem}.lora_{half}.weight", None) for half in "AB"]
        a_RK, b_NR = halves
        if stem not in stems or a_RK is None or b_NR is None:
            raise WeightsError(f"{folder}: {name} adapts nothing that this model lets be adapted")
        module = stems[stem]
        if (len(b_NR), a_RK.shape[1]) != module.shape or len(a_RK) != b_NR.shape[1]:
            raise WeightsError(
                f"{folder}: {stem} is {list(b_NR.shape)} x {list(a_RK.shape)}, not {module.shape}"
            )
        _adapt(decoder, module, a_RK.float(), b_NR.float(), scale)


def _scale(config: Mapping[str, Any], folder: Path) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (arXiv 2312.03732)."""
    if config.get("peft_type") != "LORA":
        raise WeightsError(f"{folder}: peft_type = {config.get('peft_type')!r}: only LORA is read")
    for key in (
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "fan_in_fan_out",
        "lora_bias",
    ):
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


def _adapt(decoder: Decoder, module: Matrix, a_RK: Tensor, b_NR: Tensor, scale: float) -> None:
    device = decoder.ops.device
    module.adapt(LowRank(a_RK.to(device), b_NR.to(device), scale))


def _targets(decoder: Decoder, targets: tuple[str, ...]) -> dict[str, Matrix]:
    able = {
        name: module
        for name, module in decoder.tensors().items()
        if isinstance(module, Matrix) and _can_be_adapted(decoder, name, module)
    }
    last = {name: name.rpartition(".")[2] for name in able}
    for target in targets:
        if target not in last.values():
            known = ", ".join(dict.fromkeys(last.values()))
            raise ConfigError(f"targets: {target!r} is no matrix that LoRA can adapt here; there are {known}")
    return {name: module for name, module in able.items() if not targets or last[name] in targets}


def _can_be_adapted(decoder: Decoder, name: str, module: Matrix) -> bool:
    """Whether the matrix is the weight of one linear module of Hugging Face's model."""
    if len(module.shape) != 2 or name in ("embed", "head") or name.endswith(".router"):
        return False
    return name.startswith("layers.") and type(_origin(decoder, name)) is Plain


def _stored_stem(decoder: Decoder, name: str) -> str:
    return _origin(decoder, name).name.removesuffix(".weight")


def _origin(decoder: Decoder, name: str) -> Any:
    origins = family_named(decoder.config.family).hf_origins(decoder.config)
    return locate(origins, name, len(decoder.config.layers))
