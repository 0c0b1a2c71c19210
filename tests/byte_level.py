"""Tokenizers of tiny models: every byte a token, a few words, and marks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers


def byte_level(
    marks: Mapping[str, bool], *, letters: Sequence[str] = (), merges: Sequence[tuple[str, str]] = ()
) -> tokenizers.Tokenizer:
    """Tokens are letters (all bytes, where none are given), merges, then marks: text -> whether special."""
    letters = letters or sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *("".join(pair) for pair in merges)]
    vocabulary = {word: token for token, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(text, special=special) for text, special in marks.items()])
    return backend


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path, *, template: str, eos: str) -> None:
    """The two files that a Hugging Face folder has of a tokenizer."""
    backend.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": template, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
