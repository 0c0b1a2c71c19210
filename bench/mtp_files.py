"""Models with an MTP module, of steps that take milliseconds: `python -m bench.mtp_files` writes them.

There are no published weights to be had here. So there is a DeepSeek-V3 of random weights, whose module
guesses nothing right, and the model of `mohist r1 quickstart` made large: among its own weights, and in
layers after its last one, stand random ones that add nothing to what it computes. Every product is as large
as it looks; answers and guesses are those of the small model.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from bench.files import QUICKSTART, folder
from bench.measure import progress
from mohist.chat.chat import Chat, load_chat
from mohist.chat.save import save_chat
from mohist.kernels import load_ops
from mohist.model.config import DecoderConfig, DenseConfig, MoeConfig
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder, load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix, Vector
from mohist.recipes.start import ShapeConfig, decoder_config, word_tokenizer
from mohist.weights.checkpoint import open_checkpoint

NUMBERS = 16_384
"""Words of the random model."""
RANDOM = ShapeConfig(
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    kv_rank=128,
    head_dim=64,
    rope_dim=32,
    dense_width=1536,
    top_k=4,
    expert_width=384,
)
"""96 million parameters, of which a token meets 38, and 11 in the module."""
LAYERS, DENSE_WIDTH, EXPERT_WIDTH = 14, 8192, 1024
"""Of the model that is made large."""
ADDS = (".mixer.o", ".down")
"""What a layer adds goes through these matrices."""


def main() -> None:
    """Print {"random": folder}, and where there is a model to make large {"trained": folder} too."""
    paths = {"random": random_model()}
    if QUICKSTART.is_dir():
        paths["trained"] = large_model(QUICKSTART)
    print(json.dumps({name: str(path) for name, path in paths.items()}))


def random_model() -> Path:
    """A DeepSeek-V3 of random weights, whose words are numbers."""
    target = folder() / "mtp-random"
    if not (target / "model.safetensors").is_file():
        progress(f"writing {target}")
        tokenizer = word_tokenizer(map(str, range(NUMBERS)))
        config = decoder_config(RANDOM, tokenizer.vocab_size)
        save_decoder(init_decoder(config, load_ops(), seed=0), target, format="f32")
        save_chat(Chat(tokenizer), target)
    return target


def large_model(source: Path) -> Path:
    """The model in `source`, made large."""
    target = folder() / "mtp-trained"
    weights = target / "model.safetensors"
    made_from = source / "model.safetensors"
    if not weights.is_file() or weights.stat().st_mtime < made_from.stat().st_mtime:
        progress(f"writing {target}")
        checkpoint = open_checkpoint(source)
        save_decoder(enlarged(load_decoder(checkpoint, load_ops(), quantize="f32")), target, format="f32")
        save_chat(load_chat(checkpoint), target, source=source)
    return target


def enlarged(
    small: Decoder, *, layers: int = LAYERS, dense: int = DENSE_WIDTH, expert: int = EXPERT_WIDTH
) -> Decoder:
    """A decoder that computes what `small` does, with more layers and wider feed-forwards."""
    config = large_config(small.config, layers, dense, expert)
    large = init_decoder(config, small.ops, seed=0)
    kept = small.tensors()
    for name, module in large.tensors().items():
        source = kept.get(name)
        if isinstance(module, Vector):
            if isinstance(source, Vector):
                module.fill(source.value.detach().clone())
            continue
        matrix = module.dense().clone()
        if name.endswith(ADDS):
            matrix.zero_()
        if isinstance(source, Matrix):
            matrix[tuple(slice(size) for size in source.shape)] = source.dense()
        module.train_from(matrix)
    return large


def large_config(config: DecoderConfig, layers: int, dense: int, expert: int) -> DecoderConfig:
    """More layers like the last one, and other widths."""
    wide = []
    for layer in (*config.layers, *[config.layers[-1]] * (layers - len(config.layers))):
        if isinstance(layer.mlp, MoeConfig):
            shared = expert * layer.mlp.shared_width // layer.mlp.width
            mlp = dataclasses.replace(layer.mlp, width=expert, shared_width=shared)
        else:
            assert isinstance(layer.mlp, DenseConfig), layer.mlp
            mlp = dataclasses.replace(layer.mlp, width=dense)
        wide.append(dataclasses.replace(layer, mlp=mlp))
    return dataclasses.replace(config, layers=tuple(wide))


if __name__ == "__main__":
    main()
