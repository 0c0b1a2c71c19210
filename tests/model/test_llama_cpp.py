"""llama.cpp reads what we write: its logits against ours, both with keys and values in float32."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.convert import Conversion
from mohist.model.decoder import Block, Decoder
from mohist.model.feedforward import MixtureOfExperts
from mohist.model.load import load_decoder
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.gguf_writer import write_gguf_stream
from tests.model import tiny
from tests.model.test_minimax import NAMES, published

pytestmark = pytest.mark.parity

_BYTES = [f"<0x{byte:02X}>" for byte in range(tiny.VOCAB - 3)]
_VOCABULARY = {
    "general.file_type": 0,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *_BYTES],
    "tokenizer.ggml.scores": [0.0] * tiny.VOCAB,
    "tokenizer.ggml.token_type": np.array([2, 3, 3, *[6] * len(_BYTES)], dtype=np.int32),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
_F32 = 0
"""llama.cpp's number for the type of its cache."""
_ONE_GROUP = {"n_group": 1, "topk_group": 1}

WRITTEN: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama-tied-llama3": {},
    "llama-linear-bias": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {},
    "smollm3": {},
    "glm4_moe": {},
    "minimax_m2": {},
    "deepseek": {},
    "glm4": {},
    "glm4_moe_lite": {},
    "mistral": {},
    "ministral3": {},
    "seed_oss": {},
    "gpt_oss": tiny.GGUF["gpt_oss"] | {"rope_parameters": {"rope_type": "default", "rope_theta": 150_000.0}},
    "gemma3_text": tiny.GGUF["gemma3_text"],
    "minimax": tiny.GGUF["minimax"]
    | {"rms_norm_eps": 1e-6, "layer_types": ["linear_attention", "full_attention", "full_attention"]},
    "deepseek_v3": {},
    "deepseek_v32": tiny.GGUF["deepseek_v32"],
    "deepseek_v2": {"topk_method": "greedy", **_ONE_GROUP},
    "deepseek_v3-gigachat3": {"num_hidden_layers": 26},
    "deepseek_v2-lite": {"num_hidden_layers": 27},  # by which llama.cpp knows it
}
"""Variants that llama.cpp computes as transformers does, and what it needs to be otherwise in them."""
LIMIT = 1e-5
"""Of differences, relative to the range of the logits, ..."""
LIMITS = {"gemma3_text": 1e-3}
"""... and where they have a known reason: llama.cpp looks GELU up in a table of float16."""


def written(
    variant: str, place: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[Decoder, Path]:
    """A tiny model as we read it from its folder, and the GGUF file that we write of it."""
    # GGUF keeps one of the two mscales: it takes them to be equal, as they are in every release.
    monkeypatch.setitem(tiny.YARN_ROPE, "mscale", tiny.YARN_ROPE["mscale_all_dim"])
    tiny.write(variant, place / "hf", **changes)
    return converted(place / "hf", place / "model.gguf")


def converted(folder: Path, path: Path) -> tuple[Decoder, Path]:
    """The model in a folder, and the GGUF file that we write of it."""
    source = open_checkpoint(folder)
    conversion = Conversion(source, kind="gguf", format=None)
    metadata = conversion.gguf_metadata() | _VOCABULARY
    write_gguf_stream(path, metadata, conversion.infos, conversion.tensors())
    return load_decoder(source, TorchOps()), path


def ours(decoder: Decoder) -> Tensor:
    attend = PackedAttend([64], decoder.ops)
    with torch.no_grad():
        return decoder.logits(decoder(tiny.tokens(64), attend.positions_T, attend))


def theirs(path: Path) -> Tensor:
    """llama.cpp's logits of the same tokens."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=128, n_threads=1, logits_all=True, type_k=_F32, type_v=_F32, verbose=False
    )
    model.eval(tiny.tokens(64).tolist())
    logits = torch.tensor(model._scores)
    model.close()
    return logits


@pytest.mark.parametrize("variant", WRITTEN)
def test_llama_cpp_reads_what_we_write(variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same logits all along a text, and from the file that we read back."""
    decoder, path = written(variant, tmp_path, WRITTEN[variant], monkeypatch)
    expected, reread = ours(decoder), ours(load_decoder(open_checkpoint(path), TorchOps()))
    assert tiny.relative(reread, expected) < LIMIT
    assert tiny.relative(theirs(path), expected) < LIMITS.get(variant, LIMIT)


def test_llama_cpp_scores_v2s_groups_by_v3s_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of V2 is as good as its best expert (arXiv 2405.04434, section 2.2.2; transformers too).

    llama.cpp adds up its two best, as V3 does: with that rule in our place, and nothing else, we agree.
    """
    decoder, path = written("deepseek_v2", tmp_path, {}, monkeypatch)
    logits = theirs(path)
    assert tiny.relative(logits, ours(decoder)) > 0.1
    for layer in decoder.layers:
        assert isinstance(layer, Block)
        if isinstance(layer.mlp, MixtureOfExperts):
            layer.mlp.spec = dataclasses.replace(layer.mlp.spec, group_score="top2")
    assert tiny.relative(logits, ours(decoder)) < LIMIT


def test_llama_cpp_truncates_the_ramp_of_gpt_oss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every release says `truncate: false`, for which GGUF has no key; with whole ends we agree."""
    changes = tiny.GGUF["gpt_oss"]
    decoder, path = written("gpt_oss", tmp_path, changes, monkeypatch)
    logits = theirs(path)
    assert tiny.relative(logits, ours(decoder)) > 10 * LIMIT
    rope = tiny.configs()["gpt_oss"]().rope_parameters
    assert rope["truncate"] is False
    tiny.write("gpt_oss", tmp_path / "whole", **changes, rope_parameters=rope | {"truncate": True})
    whole = load_decoder(open_checkpoint(tmp_path / "whole"), TorchOps())
    assert tiny.relative(logits, ours(whole)) < LIMIT


def test_llama_cpp_turns_half_a_head_of_minimax_as_we_do(tmp_path: Path) -> None:
    """As published, which transformers' class cannot say."""
    changes = WRITTEN["minimax"]
    factors = {f"layernorm_{part}_alpha": 3.5 for part in NAMES.values()}
    factors |= {f"layernorm_{part}_beta": 1.0 for part in NAMES.values()}
    folder = published(
        tmp_path / "hf",
        **factors,
        rms_norm_eps=changes["rms_norm_eps"],
        attn_type_list=[0, 1, 0],
        rotary_dim=12,
    )
    decoder, path = converted(folder, tmp_path / "model.gguf")
    assert tiny.relative(theirs(path), ours(decoder)) < 1e-3  # the last layer's decay has other last digits
