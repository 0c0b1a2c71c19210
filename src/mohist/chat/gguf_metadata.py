"""A tokenizer as the metadata of a GGUF file: what `mohist.chat.gguf` reads, written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers

from mohist.chat.pretokenizers import PreTokenizer, pre_tokenizer
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError

__all__ = ["tokenizer_to_gguf"]

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_NAMES = ("llama-bpe", "qwen2", "deepseek-v3", "smollm", "deepseek-llm", "deepseek-coder", "glm4", "gpt-2")
"""One name for each set of rules for words, as llama.cpp knows them."""

_PROBE = (
    "I'LL pay 1234567 €, won't you?\n\n\tdef f(x):\r\n    return x**2  # ok\n \n"
    "子墨子言曰：「仁人之事者」 12\uff13\uff14 かな カナ 한국어 "
    "Ёлки-палки naïve e\u0301 🙂🙂🏽 <|x|> a_b snake_case ..."
    "   trailing  \u3000spaces\u00a0here\n\n\n"
)
"""Text in which any two sets of rules differ somewhere."""

_IDS = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|end|>")


def tokenizer_to_gguf(tokenizer: Tokenizer, *, vocab_size: int) -> dict[str, Any]:
    """The keys `tokenizer.*`, for a model with so many rows in its embedding.

    Raises ChatError for a tokenizer that llama.cpp has no name for.
    """
    state = json.loads(tokenizer.backend.to_str())
    model = state["model"]
    if model.get("type") != "BPE":
        raise ChatError(f"a tokenizer of type {model.get('type')!r} cannot be in a GGUF file, only BPE can")
    texts = _texts(tokenizer, vocab_size)
    is_pieces = bool(model.get("byte_fallback"))
    keys: dict[str, Any] = {"model": "llama" if is_pieces else "gpt2", "tokens": texts}
    types = _types(tokenizer.backend, texts, model.get("unk_token") if is_pieces else None, is_pieces)
    keys["token_type"] = np.array(types, dtype=np.int32)  # llama.cpp takes no other type
    if is_pieces:
        keys |= {"pre": "default", "scores": _scores(texts, model["merges"])}
        rules = json.dumps([state["normalizer"], state["pre_tokenizer"]])
        keys["add_space_prefix"] = "Prepend" in rules or '"prepend_scheme": "first"' in rules
    else:
        keys |= {"pre": _rules_name(tokenizer.backend, model), "merges": list(map(_merge, model["merges"]))}
    keys |= _named_ids(tokenizer)
    keys["add_bos_token"] = tokenizer.adds_bos
    templates = {
        "tokenizer.chat_template" + ("" if name == "default" else f".{name}"): source
        for name, source in tokenizer.templates.items()
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | templates


def _texts(tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """The text of every token; rows of the embedding that no token uses get names of their own."""
    if tokenizer.vocab_size > vocab_size:
        raise ChatError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's embedding {vocab_size}"
        )
    texts = (tokenizer.backend.id_to_token(token) for token in range(vocab_size))
    return [f"[PAD{token}]" if text is None else text for token, text in enumerate(texts)]


def _types(
    backend: tokenizers.Tokenizer, texts: list[str], unknown: str | None, is_pieces: bool
) -> list[int]:
    """llama.cpp's kind of every token: it shows those that users defined and hides control tokens."""
    added = backend.get_added_tokens_decoder()

    def kind(token: int, text: str) -> int:
        if token in added:
            return _CONTROL if added[token].special else _USER_DEFINED
        if backend.id_to_token(token) is None:
            return _UNUSED
        if text == unknown:
            return _UNKNOWN
        return _BYTE if is_pieces and text.startswith("<0x") and len(text) == 6 else _NORMAL

    return [kind(token, text) for token, text in enumerate(texts)]


def _merge(merge: str | list[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _scores(texts: Iterable[str], merges: list[str | list[str]]) -> list[float]:
    """Scores that rank pieces as the merges do: the earlier a merge makes a piece, the better."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(_merge(merge).replace(" ", ""), rank)
    return [-float(ranks.get(text, len(merges))) for text in texts]


def _rules_name(backend: tokenizers.Tokenizer, model: dict[str, Any]) -> str:
    """The name of the rules by which the tokenizer cuts text into words."""
    cut = _words(backend.pre_tokenizer, backend.normalizer)
    for name in _NAMES:
        rules = pre_tokenizer(name)
        if _words(rules.splitter, rules.normalizer) == cut and _same_merging(rules, model):
            return name
    raise ChatError(
        "this tokenizer cuts text into words by rules that GGUF has no name for, as far as Mohist knows; "
        "keep the model's Hugging Face folder"
    )


def _words(splitter: Any, normalizer: Any) -> list[str] | None:
    if splitter is None:
        return None
    text = _PROBE if normalizer is None else normalizer.normalize_str(_PROBE)
    return [word for word, _ in splitter.pre_tokenize_str(text)]


def _same_merging(rules: PreTokenizer, model: dict[str, Any]) -> bool:
    return rules.ignore_merges == bool(model.get("ignore_merges"))


def _named_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens by llama.cpp's names. Besides eos it knows two that end a turn."""
    named = {
        key: tokenizer.token(tokenizer.names[name]) for name, key in _IDS.items() if name in tokenizer.names
    }
    found = {f"{key}_token_id": token for key, token in named.items() if token is not None}
    known = (tokenizer.token(text) for text in _END_OF_TURN)
    ends = dict.fromkeys(token for token in (*tokenizer.stop_tokens, *known) if token is not None)
    others = [token for token in ends if token != found.get("eos_token_id")]
    return found | {f"{key}_token_id": token for key, token in zip(("eot", "eom"), others, strict=False)}
