"""Tokenizers as GGUF metadata: what is written is read back as the same tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, normalizers

from mohist.chat.gguf import read_gguf
from mohist.chat.gguf_metadata import tokenizer_to_gguf
from mohist.chat.pretokenizers import pre_tokenizer
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError

Build = Callable[..., Tokenizer]
TEXT = "hello the thing\n\n 1234 <|im_start|>ü <table> I'll 墨子 <think>\n"


@pytest.mark.parametrize(
    "name", ["llama-bpe", "qwen2", "deepseek-v3", "smollm", "deepseek-llm", "gpt-2", "glm4"]
)
def test_there_and_back(build: Build, name: str) -> None:
    made = build(names={"eos_token": "<|im_end|>"}, templates={"default": "{{ messages }}", "tool_use": "x"})
    rules = pre_tokenizer(name)
    made.backend.pre_tokenizer = rules.splitter
    if rules.normalizer is not None:
        made.backend.normalizer = rules.normalizer
    if rules.ignore_merges:
        state = json.loads(made.backend.to_str())
        state["model"]["ignore_merges"] = True
        backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        made = Tokenizer(backend, names=made.names, templates=made.templates)
    metadata = tokenizer_to_gguf(made, vocab_size=made.vocab_size + 3)
    assert metadata["tokenizer.ggml.pre"] == name
    assert metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{made.vocab_size + 2}]"
    assert metadata["tokenizer.ggml.token_type"].dtype == np.int32
    back = read_gguf(metadata)
    for special in (True, False):
        assert back.encode(TEXT, special=special) == made.encode(TEXT, special=special)
    assert back.names == made.names
    assert back.templates == made.templates
    assert back.adds_bos == made.adds_bos
    assert set(back.markup.values()) == set(made.markup.values())


def test_pieces_with_scores(build: Build) -> None:
    """SentencePiece's kind: merges become scores, and the same merges again."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abc"]
    merges = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("ab", "c"), ("▁ab", "c")]
    pieces += ["".join(merge) for merge in merges]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    options: dict[str, Any] = {"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, **options))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["<s>", "</s>"])
    made = Tokenizer(
        backend, names={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, adds_bos=True
    )
    metadata = tokenizer_to_gguf(made, vocab_size=len(pieces))
    assert metadata["tokenizer.ggml.model"] == "llama"
    assert metadata["tokenizer.ggml.add_space_prefix"] is True
    back = read_gguf(metadata)
    for text in ("abc abc", "cab", " a\n墨", "<s>abc"):
        assert back.encode(text) == made.encode(text)
    assert back.adds_bos


def test_what_gguf_cannot_hold_is_refused(build: Build) -> None:
    made = build()
    with pytest.raises(ChatError, match=r"the tokenizer has .* tokens, the model's embedding 10"):
        tokenizer_to_gguf(made, vocab_size=10)
    made.backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    with pytest.raises(ChatError, match="by rules that GGUF has no name for"):
        tokenizer_to_gguf(made, vocab_size=made.vocab_size)
    words = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    with pytest.raises(ChatError, match="type 'WordLevel' cannot be in a GGUF file"):
        tokenizer_to_gguf(Tokenizer(words), vocab_size=1)


@pytest.mark.real_model
def test_smollm2_there_and_back(smollm2_metadata: Mapping[str, Any]) -> None:
    made = read_gguf(smollm2_metadata)
    metadata = tokenizer_to_gguf(made, vocab_size=made.vocab_size)
    for key in ("model", "pre", "tokens", "merges", "bos_token_id", "eos_token_id", "add_bos_token"):
        assert metadata[f"tokenizer.ggml.{key}"] == smollm2_metadata[f"tokenizer.ggml.{key}"], key
    assert metadata["tokenizer.chat_template"] == smollm2_metadata["tokenizer.chat_template"]
