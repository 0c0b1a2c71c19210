"""A model to start from nothing with: DeepSeek-V3 in small, random weights, a token for every word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from mohist.chat.chat import Chat
from mohist.chat.save import save_chat
from mohist.chat.tokenizer import Tokenizer
from mohist.model.config import DecoderConfig, DenseConfig, LayerConfig, MlaConfig, MoeConfig
from mohist.model.family import family_named
from mohist.model.rope_config import RopeConfig
from mohist.weights.files import write_whole

__all__ = ["ShapeConfig", "decoder_config", "word_tokenizer", "write_start"]

_BOS, _EOS, _UNKNOWN = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<unk>"
_MARKUP = (_BOS, _EOS, "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", _UNKNOWN)
_WORD_START = "▁"
"""Stands for the space before every word, as in SentencePiece."""
_TEMPLATE = """\
{{- bos_token }}
{%- set place = namespace(question=0) %}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- set place.question = loop.index0 %}
{%- endif %}
{%- endfor %}
{%- for message in messages[place.question:] %}
{%- if message['role'] == 'user' %}
{{- '<｜User｜>' + message['content'] }}
{%- elif message['role'] == 'assistant' %}
{{- '<｜Assistant｜><think>' + (message['reasoning_content'] or '') }}
{{- '</think>' + message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<｜Assistant｜><think>' }}
{%- endif %}"""
"""Each question stands alone, since the model never meets a second one: earlier turns are left out."""


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """How large the model is: latent attention, one dense layer, then experts, then MTP modules."""

    hidden_size: int = 128
    """Width of the residual stream."""
    num_layers: int = 3
    """Layers, the dense one included; at least 2."""
    num_heads: int = 4
    """Attention heads of every layer."""
    kv_rank: int = 32
    """Width of the latent that is cached of every token."""
    head_dim: int = 32
    """Of a head's query and key without position, and of its value."""
    rope_dim: int = 16
    """Of a head's query and key with position."""
    dense_width: int = 256
    """Feed-forward width of the first layer."""
    num_experts: int = 16
    """Routed experts of every other layer."""
    top_k: int = 2
    """Routed experts that a token takes, beside the shared one."""
    expert_width: int = 64
    """Feed-forward width of an expert, the shared one too."""
    mtp_layers: int = 1
    """Multi-token prediction modules."""
    max_positions: int = 512
    """Longest conversation, in tokens."""


def decoder_config(shape: ShapeConfig, vocab_size: int) -> DecoderConfig:
    """The decoder that `shape` describes. Raises ModelError for sizes that do not fit together."""
    mixer = MlaConfig(
        num_heads=shape.num_heads,
        q_rank=None,
        kv_rank=shape.kv_rank,
        nope_dim=shape.head_dim,
        rope=RopeConfig(dim=shape.rope_dim, interleaved=True),
        value_dim=shape.head_dim,
    )
    experts = MoeConfig(
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        width=shape.expert_width,
        shared_width=shape.expert_width,
        scoring="sigmoid",
        selection_bias=True,
        group_score="top2",
        renormalize=True,
    )
    dense = LayerConfig(mixer=mixer, mlp=DenseConfig(width=shape.dense_width))
    return DecoderConfig(
        family="deepseek_v3",
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        layers=(dense, *[LayerConfig(mixer=mixer, mlp=experts)] * (shape.num_layers - 1)),
        mtp_layers=shape.mtp_layers,
        norm_eps=1e-6,
        tie_embeddings=False,
        max_positions=shape.max_positions,
        bos_token=_MARKUP.index(_BOS),
        eos_tokens=(_MARKUP.index(_EOS),),
    )


def word_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A tokenizer whose tokens are DeepSeek's markup and `words`: numbers, runs of letters, single signs.

    Space between words is dropped and written back as one space before each. Other words are unknown.
    """
    texts = [*_MARKUP, *(_WORD_START + word for word in dict.fromkeys(words))]
    backend = tokenizers.Tokenizer(
        models.WordLevel({text: token for token, text in enumerate(texts)}, unk_token=_UNKNOWN)
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"\d+|\p{L}+|."), "isolated"),
            pre_tokenizers.Metaspace(_WORD_START, prepend_scheme="always", split=False),
        ]
    )
    backend.decoder = decoders.Metaspace(_WORD_START, prepend_scheme="always", split=False)
    backend.add_special_tokens(list(_MARKUP))
    names = {"bos_token": _BOS, "eos_token": _EOS, "unk_token": _UNKNOWN}
    return Tokenizer(backend, names=names, templates={"default": _TEMPLATE})


def write_start(shape: ShapeConfig, words: Iterable[str], folder: Path) -> None:
    """A model folder without weights: training starts from random ones, by its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = word_tokenizer(words)
    save_chat(Chat(tokenizer), folder)
    config = decoder_config(shape, tokenizer.vocab_size)
    with write_whole(folder / "config.json") as file:
        file.write(json.dumps(family_named(config.family).config_to_hf(config), indent=2).encode())
