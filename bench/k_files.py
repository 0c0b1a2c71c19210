"""A model in K-quants: `python -m bench.k_files` writes what is missing, prints the paths as JSON.

SmolLM2's rows are no whole super-blocks of 256, so llama.cpp gives most of its matrices another format. This
is a Llama with random weights, wider and of fewer layers, with SmolLM2's tokenizer; llama.cpp quantises it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch

from bench.files import SOURCE, folder, quantised
from bench.kquants import STORED
from bench.measure import progress
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import RawTensor
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.source import resolve

LAYERS, HIDDEN, WIDTH, HEADS, KV_HEADS, VOCAB = 16, 1024, 2816, 16, 4, 49_152
"""231 million weights: f32 takes 923 MB, Q4_K_M 152."""
STD = 0.02


def main() -> None:
    """Print {"f32": path, "q8_0": path, "q4_k_m": path, ...}."""
    dense = folder() / "random-f32.gguf"
    if not dense.is_file():
        progress(f"writing {dense}")
        dense.parent.mkdir(parents=True, exist_ok=True)
        write_gguf(dense, metadata(), list(tensors()))
    paths = {"f32": dense}
    paths |= {format: quantised(dense, folder() / f"random-{format}.gguf", format) for format in STORED}
    print(json.dumps({name: str(path) for name, path in paths.items()}))


def metadata() -> dict[str, Any]:
    """SmolLM2's, with our sizes."""
    source = resolve(SOURCE)
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


if __name__ == "__main__":
    main()
