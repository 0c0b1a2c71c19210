"""A tiny model with random weights, a byte tokenizer and a chat template, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.byte_level import byte_level, save_tokenizer

SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model that babbles."""
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def make_tiny_model(folder: Path, *, seed: int = 5) -> Path:
    """Save a model that babbles, each seed in its own way."""
    from mohist.kernels.twin import TorchOps
    from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
    from mohist.model.load import init_decoder
    from mohist.model.rope_config import RopeConfig
    from mohist.model.save import save_decoder

    backend = byte_level(dict.fromkeys(SPECIAL, True))
    end = backend.token_to_id("b")
    assert end is not None
    mixer = GqaConfig(num_heads=4, num_kv_heads=2, head_dim=16, rope=RopeConfig(dim=16))
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=96))
    config = DecoderConfig(
        family="llama",
        vocab_size=backend.get_vocab_size(),
        hidden_size=64,
        layers=(layer,) * 2,
        norm_eps=1e-5,
        tie_embeddings=True,
        max_positions=256,
        eos_tokens=(end,),
    )
    save_decoder(init_decoder(config, TorchOps(), seed=seed, std=0.3), folder)
    save_tokenizer(backend, folder, template=TEMPLATE, eos="<|im_end|>")
    return folder
