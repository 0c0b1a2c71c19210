"""What the formats of GGUF files become in memory: block formats in every place, as llama.cpp mixes them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from mohist.cli.main import main
from mohist.kernels.twin import TorchOps
from mohist.kernels.weight import is_quantized
from mohist.model.kept import KEPT, expanded, kept_bytes
from mohist.model.load import load_decoder
from mohist.model.tensors import Matrix
from mohist.serve.loading import LOADER, ModelConfig
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import Format, RawTensor, TensorInfo
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.quants import dequantize

HIDDEN, WIDTH, EXPERTS, VOCAB = 256, 512, 3, 257
SIZES: dict[str, Any] = {
    "block_count": 2,
    "context_length": 128,
    "embedding_length": HIDDEN,
    "feed_forward_length": WIDTH,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 64,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "expert_count": EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": WIDTH,
    "rope.freq_base": 10000.0,
}
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.merges": ["a b"],
}
MIX = {
    "attn_q": Format.Q4_K,
    "attn_k": Format.Q5_0,
    "attn_v": Format.Q6_K,
    "attn_output": Format.Q5_K,
    "ffn_gate_exps": Format.Q4_K,
    "ffn_up_exps": Format.Q5_K,
    "ffn_down_exps": Format.Q6_K,
}
SHAPES = {
    "attn_q": (256, HIDDEN),
    "attn_k": (128, HIDDEN),
    "attn_v": (128, HIDDEN),
    "attn_output": (HIDDEN, 256),
    "ffn_gate_exps": (EXPERTS, WIDTH, HIDDEN),
    "ffn_up_exps": (EXPERTS, WIDTH, HIDDEN),
    "ffn_down_exps": (EXPERTS, HIDDEN, WIDTH),
}


def blocks(name: str, format: Format, shape: tuple[int, ...]) -> RawTensor:
    """Random blocks whose float16 numbers are small and finite."""
    info = TensorInfo(name, format, shape)
    generator = torch.Generator().manual_seed(len(name))
    count = info.num_values // format.block_values
    data = torch.randint(256, (count, format.block_bytes), dtype=torch.uint8, generator=generator)
    at = 208 if format is Format.Q6_K else 0
    with_minimum = format in (Format.Q4_K, Format.Q5_K, Format.Q5_1)
    halves = torch.tensor([2e-4, 1e-3] if with_minimum else [2e-4]).half().view(torch.uint8)
    data[:, at : at + len(halves)] = halves
    return RawTensor(info, data.view(int(np.prod(shape[:-1])), -1))


def tensors(embedding: Format) -> Iterator[RawTensor]:
    yield blocks("token_embd.weight", embedding, (VOCAB, HIDDEN))
    yield blocks("output.weight", Format.Q6_K, (VOCAB, HIDDEN))
    yield RawTensor.plain("output_norm.weight", torch.ones(HIDDEN))
    for layer in range(2):
        for norm, size in (("attn", HIDDEN), ("ffn", HIDDEN), ("attn_q", 64), ("attn_k", 64)):
            yield RawTensor.plain(f"blk.{layer}.{norm}_norm.weight", torch.ones(size))
        router = torch.randn(EXPERTS, HIDDEN, generator=torch.Generator().manual_seed(layer))
        yield RawTensor.plain(f"blk.{layer}.ffn_gate_inp.weight", router)
        for name, format in MIX.items():
            yield blocks(f"blk.{layer}.{name}.weight", format, SHAPES[name])


def write(path: Path, embedding: Format) -> Path:
    keys = {f"qwen3moe.{key}": value for key, value in SIZES.items()}
    write_gguf(path, {"general.architecture": "qwen3moe"} | keys | TOKENIZER, list(tensors(embedding)))
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write(tmp_path / "mixed.gguf", Format.Q4_K)


@pytest.fixture
def partly_kept(tmp_path: Path) -> Path:
    return write(tmp_path / "partly.gguf", Format.Q5_1)


def test_k_quants_stay_as_they_are(mixed: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = open_checkpoint(mixed)
    decoder = load_decoder(checkpoint, TorchOps())
    stored = {"embed": "token_embd", "head": "output"} | {
        f"layers.1.{ours}": f"blk.1.{theirs}"
        for ours, theirs in (
            ("mixer.q", "attn_q"),
            ("mixer.k", "attn_k"),
            ("mixer.v", "attn_v"),
            ("mixer.o", "attn_output"),
            ("mlp.experts.gate", "ffn_gate_exps"),
            ("mlp.experts.up", "ffn_up_exps"),
            ("mlp.experts.down", "ffn_down_exps"),
        )
    }
    modules = decoder.tensors()
    in_memory = 0
    for name, source in stored.items():
        module, raw = modules[name], checkpoint.read(f"{source}.weight")
        assert isinstance(module, Matrix)
        assert {weight.format for weight in module.weights()} == {KEPT[raw.info.format]}, name
        assert is_quantized(KEPT[raw.info.format])
        assert torch.equal(module.dense(), dequantize(raw)), name
    for module in modules.values():
        held = [w.data for w in module.weights()] if isinstance(module, Matrix) else [module.value]
        in_memory += sum(data.nbytes for data in held)

    # panels have 16 rows: of routers 13 are missing, of embedding and head 15
    missing = 2 * 13 * HIDDEN * 4 + 15 * HIDDEN // 256 * (148 + 210)
    assert in_memory == kept_bytes(checkpoint) + missing
    assert expanded(checkpoint) == {}
    assert not caplog.records


def test_what_has_no_kernel_is_told(partly_kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = open_checkpoint(partly_kept)
    assert expanded(checkpoint) == {Format.Q5_1: "f32"}
    with caplog.at_level(logging.WARNING):
        decoder = load_decoder(checkpoint, TorchOps())
    assert caplog.messages == ["no kernel computes with q5_1 weights: they are f32 in memory"]
    embedding = decoder.tensors()["embed"]
    assert isinstance(embedding, Matrix)
    assert embedding.weights()[0].format == "f32"
    assert torch.equal(embedding.dense(), dequantize(checkpoint.read("token_embd.weight")))


def test_info_and_server_count_what_memory_takes(
    mixed: Path, partly_kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, become in ((mixed, ""), (partly_kept, ", f32 in memory")):
        checkpoint = open_checkpoint(path)
        needed = LOADER.memory_bytes(ModelConfig(source=str(path), cache_tokens=16))
        assert needed == kept_bytes(checkpoint) + 16 * 2 * 2 * 2 * 64 * 4
        assert main(["info", str(path)]) == 0
        text = capsys.readouterr().out
        assert f"{'q5_1' if become else 'q5_0'} (" in text
        assert (", f32 in memory" in text) == bool(become)
        assert "\n  stored " in text


def test_k_quants_are_trained_as_float32(mixed: Path) -> None:
    checkpoint = open_checkpoint(mixed)
    embedding = load_decoder(checkpoint, TorchOps(), trainable=True).tensors()["embed"]
    assert isinstance(embedding, Matrix)
    assert embedding.parameter is not None
    assert torch.equal(embedding.parameter.detach(), dequantize(checkpoint.read("token_embd.weight")))
