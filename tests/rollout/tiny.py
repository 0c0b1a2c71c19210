"""A chat model of a few thousand parameters that knows letters and nothing else, and a task that fits it."""

from __future__ import annotations

import json
import string
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers

from mohist.chat.chat import load_chat
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner
from mohist.kernels import load_ops
from mohist.llm import LLM
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig, RopeConfig
from mohist.model.load import init_decoder, load_decoder
from mohist.model.save import save_decoder
from mohist.types import Grade, Message, Problem, SamplingParams
from mohist.weights.checkpoint import open_checkpoint

LETTERS = string.ascii_lowercase[:8]
SPECIAL = ["<think>", "</think>", "<|ask|>", "<|answer|>", "<|end|>"]
TEMPLATE = (
    "{% for message in messages %}<|ask|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)
END = len(LETTERS) + SPECIAL.index("<|end|>")


def save_tiny(folder: Path, *, seed: int = 0, std: float = 0.1, max_positions: int = 64) -> Path:
    """Write the model with random weights, as a Hugging Face folder."""
    vocabulary = {letter: token for token, letter in enumerate(LETTERS)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    layer = LayerConfig(mixer=GqaConfig(num_heads=2, num_kv_heads=1, head_dim=16), mlp=DenseConfig(width=64))
    config = DecoderConfig(
        family="llama",
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        layers=(layer, layer),
        rope=RopeConfig(dim=16),
        norm_eps=1e-5,
        tie_embeddings=False,
        max_positions=max_positions,
        eos_tokens=(END,),
    )
    save_decoder(init_decoder(config, load_ops(threads=1), seed=seed, std=std), folder)
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "chat_template": TEMPLATE,
        "eos_token": "<|end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def load_tiny(folder: Path, *, threads: int = 1, max_running: int = 64, num_blocks: int = 64) -> LLM:
    """The model in `folder`, with an engine of a chosen size."""
    checkpoint = open_checkpoint(folder)
    ops = load_ops(threads=threads)
    decoder = load_decoder(checkpoint, ops)
    runner = DecoderRunner(decoder, ops, num_blocks=num_blocks, block_size=16)
    return LLM(
        source=str(folder),
        decoder=decoder,
        chat=load_chat(checkpoint),
        engine=Engine(runner, EngineConfig(max_running=max_running)),
        defaults=SamplingParams(max_tokens=8),
    )


def echo_problems(count: int) -> list[Problem]:
    """Say the last letter of the question."""
    texts = [LETTERS[i % 8] + LETTERS[i // 8 % 8] for i in range(count)]
    return [Problem(id=f"echo-{text}", question=text, answer=text[-1]) for text in texts]


def echo_grade(problem: Problem, message: Message) -> Grade:
    """1 for the letter alone, a quarter where it begins the answer."""
    accuracy = float(message.content == problem.answer)
    begins = float(message.content.startswith(problem.answer))
    return Grade(reward=max(accuracy, begins / 4), parts={"accuracy": accuracy, "begins": begins})
