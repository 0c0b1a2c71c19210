"""A chat model of a few thousand parameters that knows digits and nothing else, and a task that fits it."""

from __future__ import annotations

from pathlib import Path

from mohist.chat.chat import load_chat
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner
from mohist.kernels import load_ops
from mohist.llm import LLM
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig, MlaConfig, MoeConfig
from mohist.model.load import init_decoder, load_decoder
from mohist.model.rope_config import RopeConfig
from mohist.model.save import save_decoder
from mohist.tasks.library.arithmetic import ArithmeticConfig
from mohist.types import SamplingParams
from mohist.weights.checkpoint import open_checkpoint
from tests.byte_level import byte_level, save_tokenizer

CHARACTERS = "0123456789+Ġ"  # the last one is how byte-level tokenizers write a space
SPECIAL = ["<think>", "</think>", "<|ask|>", "<|answer|>", "<|end|>"]
TEMPLATE = (
    "{% for message in messages %}<|ask|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)
TASK = ArithmeticConfig(
    extract=("whole",), num_terms=(2, 2), smallest=0, largest=5, operators=("+",), question="{expression}"
)
"""What is 2 + 3? The answer is the number and nothing else."""
END = len(CHARACTERS) + SPECIAL.index("<|end|>")


DENSE = LayerConfig(
    mixer=GqaConfig(num_heads=2, num_kv_heads=1, head_dim=16, rope=RopeConfig(dim=16)),
    mlp=DenseConfig(width=64),
)
LATENT = LayerConfig(
    mixer=MlaConfig(
        num_heads=2,
        q_rank=32,
        kv_rank=32,
        nope_dim=16,
        rope=RopeConfig(dim=16, interleaved=True),
        value_dim=16,
    ),
    mlp=MoeConfig(
        num_experts=8,
        top_k=2,
        width=32,
        shared_width=32,
        scoring="sigmoid",
        selection_bias=True,
        renormalize=True,
        scale=2.0,
    ),
)
"""As in DeepSeek-V3: latent attention, routed experts and a shared one."""


def save_tiny(folder: Path, *, seed: int = 0, std: float = 0.1, layer: LayerConfig = DENSE) -> Path:
    """Write the model with random weights, as a Hugging Face folder."""
    backend = byte_level(dict.fromkeys(SPECIAL, True), letters=CHARACTERS)
    config = DecoderConfig(
        family="llama" if layer is DENSE else "deepseek_v3",
        vocab_size=backend.get_vocab_size(),
        hidden_size=32,
        layers=(layer, layer),
        norm_eps=1e-5,
        tie_embeddings=False,
        max_positions=64,
        eos_tokens=(END,),
    )
    save_decoder(init_decoder(config, load_ops(threads=1), seed=seed, std=std), folder)
    save_tokenizer(backend, folder, template=TEMPLATE, eos="<|end|>")
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
