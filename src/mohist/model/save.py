"""A decoder as a Hugging Face folder, which transformers and vLLM open as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mohist.model.decoder import Decoder
from mohist.model.family import family_named
from mohist.model.origins import Origin, assembled, locate
from mohist.model.tensors import Matrix, Vector
from mohist.weights.checkpoint import save_safetensors

__all__ = ["save_decoder"]


def save_decoder(decoder: Decoder, folder: Path, *, format: Literal["f32", "bf16"] | None = None) -> None:
    """Write weights and config.json; tokenizer files are the business of whoever has the tokenizer.

    Without `format`, bf16 where that keeps every value (as loaded from bf16, untrained), else f32; quantised
    weights are written as the values that they stand for. The selection bias of routers is always f32.
    Equal decoders give equal bytes. Raises ModelError, when the config cannot be said in the family's own.
    """
    family = family_named(decoder.config.family)
    config: dict[str, Any] = family.config_to_hf(decoder.config)
    target = format or ("bf16" if _keeps_bf16(decoder) else "f32")
    config["dtype"] = {"f32": "float32", "bf16": "bfloat16"}[target]
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(
        folder, _stored(decoder, torch.bfloat16 if target == "bf16" else torch.float32), config=config
    )


def _keeps_bf16(decoder: Decoder) -> bool:
    return all(
        module.is_bf16() if isinstance(module, Matrix) else _is_bf16(module.value)
        for name, module in decoder.tensors().items()
        if not name.endswith(".router_bias")
    )


def _is_bf16(vector: Tensor) -> bool:
    return torch.equal(vector.bfloat16().float(), vector)


def _stored(decoder: Decoder, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Stored names and tensors, one of ours at a time."""
    origins = family_named(decoder.config.family).hf_origins(decoder.config)
    num_layers = len(decoder.config.layers)

    def located() -> Iterator[tuple[Origin, Tensor]]:
        for name, module in decoder.tensors().items():
            values = module.value.detach() if isinstance(module, Vector) else module.dense()
            kept = torch.float32 if name.endswith(".router_bias") else dtype
            yield locate(origins, name, num_layers), values.to(kept).cpu()

    for name, tensor in assembled(located()):
        yield name, tensor.contiguous()
