"""The models that are trained: `python -m bench.rl_files` writes what is missing, prints folders as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers

from bench.files import SOURCE
from bench.measure import progress
from mohist.chat.chat import load_chat
from mohist.chat.save import save_chat
from mohist.kernels import load_ops
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.load import init_decoder, load_decoder
from mohist.model.rope_config import RopeConfig
from mohist.model.save import save_decoder
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.source import cache_folder, resolve

WORDS = 4093
"""Of the small model's vocabulary, beside its three special tokens."""
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
"""Prompts are to be exactly as long as the work says."""


def main() -> None:
    """Print {"5M": folder, "SmolLM2": folder}."""
    print(json.dumps({"5M": str(small_llama()), "SmolLM2": str(smollm2())}))


def small_llama() -> Path:
    """A Llama with 5.0 million random parameters, in float32."""
    folder = cache_folder() / "bench" / "llama-5m"
    if (folder / "tokenizer_config.json").is_file():
        return folder
    progress(f"writing {folder}")
    mixer = GqaConfig(num_heads=8, num_kv_heads=4, head_dim=32, rope=RopeConfig(dim=32))
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=768))
    config = DecoderConfig(
        family="llama",
        vocab_size=WORDS + 3,
        hidden_size=256,
        layers=(layer,) * 5,
        norm_eps=1e-5,
        tie_embeddings=True,
        max_positions=1024,
        eos_tokens=(WORDS,),
    )
    save_decoder(init_decoder(config, load_ops(), seed=0), folder, format="f32")
    vocabulary = {f" w{i}": i for i in range(WORDS)}
    names = {"eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    vocabulary |= {text: WORDS + i for i, text in enumerate(names.values())}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(" w[0-9]+"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    backend.add_special_tokens(list(names.values()))
    backend.save(str(folder / "tokenizer.json"))
    write_settings(folder, {"tokenizer_class": "PreTrainedTokenizerFast", **names})
    return folder


def smollm2() -> Path:
    """SmolLM2-135M in float32, with a template that adds nothing."""
    folder = cache_folder() / "bench" / "smollm2-rl"
    if (folder / "tokenizer_config.json").is_file():
        return folder
    progress(f"writing {folder}")
    source = resolve(SOURCE)
    checkpoint = open_checkpoint(source if source.is_file() else next(source.glob("*.gguf")))
    save_decoder(load_decoder(checkpoint, load_ops(), quantize="f32"), folder, format="f32")
    save_chat(load_chat(checkpoint), folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_settings(folder, settings)
    return folder


def write_settings(folder: Path, settings: dict[str, object]) -> None:
    """Write tokenizer_config.json, the last file of a folder."""
    text = json.dumps({**settings, "chat_template": TEMPLATE, "add_bos_token": False}, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
