"""A tiny model with a tokenizer, as a Hugging Face folder, and conversations to train it on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from mohist.kernels.twin import TorchOps
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.load import init_decoder
from mohist.model.rope_config import RopeConfig
from mohist.model.save import save_decoder
from tests.byte_level import save_tokenizer

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKUP = ("<|im_start|>", "<|im_end|>")


def write_tokenizer(folder: Path) -> int:
    """A byte-level tokenizer with ChatML's marks; its vocabulary's size."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken(text, special=True, normalized=False) for text in MARKUP])
    save_tokenizer(backend, folder, template=TEMPLATE, eos="<|im_end|>")
    return backend.get_vocab_size()


def decoder_config(vocab_size: int) -> DecoderConfig:
    mixer = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=16, rope=RopeConfig(dim=16))
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=64))
    return DecoderConfig(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=32,
        layers=(layer, layer),
        norm_eps=1e-6,
        tie_embeddings=True,
        max_positions=128,
        eos_tokens=(vocab_size - 1,),
    )


def write_model(folder: Path) -> Path:
    vocab_size = write_tokenizer(folder)
    save_decoder(init_decoder(decoder_config(vocab_size), TorchOps(), seed=0, std=0.1), folder)
    return folder


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def conversations(count: int) -> list[Any]:
    """Questions about the next letter."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [
        {
            "messages": [
                {"role": "user", "content": f"after {letters[i % 4]}?"},
                {"role": "assistant", "content": letters[i % 4 + 1]},
            ]
        }
        for i in range(count)
    ]
