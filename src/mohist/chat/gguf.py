"""A tokenizer from a GGUF file's metadata: token texts, token types and merges as llama.cpp stores them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers

from mohist.chat.pretokenizers import pre_tokenizer
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError

__all__ = ["read_gguf"]

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
"""Values of tokenizer.ggml.token_type that matter here; 1 is an ordinary token, 5 an unused one."""

_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
"""llama.cpp's names of special tokens, and those that templates know."""

_TAG = re.compile(r"<\S+>")

_TEMPLATE = "tokenizer.chat_template"


def read_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that `metadata` describes. ChatError for a kind that Mohist does not know."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = _strings(metadata, "tokenizer.ggml.tokens")
    types = [int(value) for value in metadata.get("tokenizer.ggml.token_type", ())] or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ChatError(f"tokenizer.ggml.token_type has {len(types)} entries for {len(tokens)} tokens")
    if kind == "gpt2":
        backend, adds_bos = _byte_level(metadata, tokens)
    elif kind == "llama":
        backend, adds_bos = _sentence_piece(metadata, tokens, types)
    else:
        raise ChatError(
            f"tokenizer.ggml.model = {kind!r}: Mohist knows 'gpt2' and 'llama'; "
            "use the model's Hugging Face folder"
        )
    named = {name: _token_id(metadata, key, tokens) for key, name in _NAMES.items()}
    ends = [_token_id(metadata, key, tokens) for key in ("eot", "eom")]
    # Some files call the tokens that end a turn ordinary ones; `<...>` says better what they are.
    control = {token for token in (named["bos_token"], named["eos_token"], *ends) if token is not None}
    control = {token for token in control if _TAG.fullmatch(tokens[token])}
    backend.add_tokens(
        [
            AddedToken(text, special=token in control or types[token] == _CONTROL, normalized=False)
            for token, text in enumerate(tokens)
            if text and (types[token] in (_CONTROL, _USER_DEFINED) or token in control)
        ]
    )
    return Tokenizer(
        backend,
        names={name: tokens[token] for name, token in named.items() if token is not None},
        stop_tokens=[token for token in ends if token is not None],
        adds_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", adds_bos)),
        templates=_templates(metadata),
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> tuple[tokenizers.Tokenizer, bool]:
    """Byte-level BPE (GPT-2's kind), and whether it starts texts with bos unless the file says otherwise."""
    rules = pre_tokenizer(metadata.get("tokenizer.ggml.pre", "default"))
    merges = _pairs(_strings(metadata, "tokenizer.ggml.merges", least=0))
    backend = _bpe(tokens, merges, ignore_merges=rules.ignore_merges)
    backend.pre_tokenizer = rules.splitter
    backend.decoder = decoders.ByteLevel()
    if rules.normalizer is not None:
        backend.normalizer = rules.normalizer
    return backend, rules.adds_bos


def _sentence_piece(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int]
) -> tuple[tokenizers.Tokenizer, bool]:
    """SentencePiece's BPE (Llama 2, Mistral 7B): pieces have scores instead of merges."""
    scores = [float(score) for score in metadata.get("tokenizer.ggml.scores", ())]
    if len(scores) != len(tokens):
        raise ChatError(f"tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens")
    unknown = _token_id(metadata, "unknown", tokens)
    backend = _bpe(
        tokens,
        _merges_from_scores(tokens, types, scores),
        byte_fallback=True,
        fuse_unk=True,
        unk_token=None if unknown is None else tokens[unknown],
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", "\u2581")]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        spaces.insert(0, normalizers.Prepend("\u2581"))
    backend.normalizer = normalizers.Sequence(spaces)
    return backend, True


def _merges_from_scores(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    """The merges that a SentencePiece model implies: any two pieces that make a third, best score first.

    Ties are broken as transformers breaks them when it converts such models: longer left pieces first.
    """
    others = (_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE)
    pieces = {
        text: score for text, kind, score in zip(tokens, types, scores, strict=True) if kind not in others
    }
    found = [
        (score, cut, text[:cut], text[cut:])
        for text, score in pieces.items()
        for cut in range(1, len(text))
        if text[:cut] in pieces and text[cut:] in pieces
    ]
    found.sort(key=lambda merge: (merge[0], merge[1], len(merge[3])), reverse=True)
    return [(left, right) for _, _, left, right in found]


def _bpe(tokens: list[str], merges: list[tuple[str, str]], **options: Any) -> tokenizers.Tokenizer:
    vocabulary = {text: token for token, text in enumerate(tokens)}
    try:
        return tokenizers.Tokenizer(models.BPE(vocabulary, merges, **options))
    except Exception as error:  # the library raises nothing narrower
        raise ChatError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {error}") from error


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    pairs = [merge.partition(" ") for merge in merges]
    for left, _, right in pairs:
        if not left or not right:
            raise ChatError(f"tokenizer.ggml.merges: {left + right!r} is not two pieces with a space between")
    return [(left, right) for left, _, right in pairs]


def _strings(metadata: Mapping[str, Any], key: str, *, least: int = 1) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) < least:
        raise ChatError(f"the GGUF file has no {key}, so text cannot be cut into tokens")
    if not set(map(type, values)) <= {str}:
        raise ChatError(f"{key} must be an array of strings")
    return list(values)


def _token_id(metadata: Mapping[str, Any], name: str, tokens: list[str]) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if not 0 <= int(value) < len(tokens):
        raise ChatError(f"{key} = {value}: the vocabulary has {len(tokens)} tokens")
    return int(value)


def _templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`tokenizer.chat_template` is the default, `tokenizer.chat_template.NAME` a further one."""
    sources = {
        key.removeprefix(_TEMPLATE).removeprefix(".") or "default": value
        for key, value in metadata.items()
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}.")
    }
    return {name: source for name, source in sources.items() if isinstance(source, str)}
