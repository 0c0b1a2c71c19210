"""`mohist info`: what a model is and what it needs, from its config alone."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from mohist.cli import options
from mohist.cli.terminal import Status

if TYPE_CHECKING:
    from mohist.model.config import DecoderConfig, LayerConfig
    from mohist.weights.checkpoint import Checkpoint

SUMMARY = "say what a model is and how much memory it needs"
EXAMPLES = """\
  mohist info
  mohist info DeepSeek-R1/config.json
  mohist info model.gguf --context 4096,131072
  mohist info hf:Qwen/Qwen3-0.6B --json
"""

FORMATS = ("f32", "bf16", "q8_0", "q4_1", "q4_0")
CACHE_BYTES_PER_VALUE = 4
"""Keys and values are kept in float32."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    options.add_model(
        parser, "a folder (config.json is enough), config.json itself, a .gguf file, hf: or pypi:"
    )
    parser.add_argument(
        "--context", metavar="N,...", type=context_lengths, help="tokens in the cache to count the memory for"
    )
    parser.add_argument("--offline", action="store_true", help="use only what was fetched before")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def context_lengths(text: str) -> list[int]:
    """`"4096,8192"` as numbers."""
    if not all(word.isdecimal() and int(word) > 0 for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers of tokens with commas between them")
    return [int(word) for word in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Print what the config says and what follows from it."""
    from mohist.model.family import read_config
    from mohist.model.kept import expanded, kept_bytes
    from mohist.weights.checkpoint import open_config
    from mohist.weights.source import resolve

    with Status(f"fetching {args.model}") as status:
        path = resolve(args.model, offline=args.offline, progress=status.progress)
    checkpoint = open_config(path)
    config = read_config(checkpoint)
    facts = describe(config, args.context, kept_bytes(checkpoint)) | {
        "stored": stored_formats(checkpoint),
        "expanded": {str(stored): kept for stored, kept in expanded(checkpoint).items()},
        "chat": chat_format(checkpoint),
    }
    if args.json:
        print(json.dumps({"model": args.model} | facts, indent=2))
    else:
        print(as_text(args.model, facts))
    return 0


def describe(config: DecoderConfig, contexts: list[int] | None = None, kept_bytes: int = 0) -> dict[str, Any]:
    """Everything that follows from the config; `kept_bytes`: of the weights as loaded, 0 without weights."""
    from mohist.model import count

    values = count.cache_values_per_token(config)
    cache_bytes = values * CACHE_BYTES_PER_VALUE
    lengths = contexts or sorted({min(4096, config.max_positions), config.max_positions})
    weights = {"stored": kept_bytes} if kept_bytes else {}
    weights |= {name: count.weight_bytes(config, name) for name in FORMATS}
    return {
        "family": config.family,
        "layers": [
            {"count": number, "mixer": mixer, "feed_forward": mlp}
            for (mixer, mlp), number in Counter(map(layer_kind, config.layers)).items()
        ],
        "hidden_size": config.hidden_size,
        "vocab_size": config.vocab_size,
        "max_positions": config.max_positions,
        "parameters": count.parameters(config),
        "active_parameters": count.active_parameters(config),
        "mtp_parameters": count.mtp_parameters(config),
        "flops_per_token": count.flops_per_token(config, 1),
        "cache_values_per_token": values,
        "cache_bytes_per_token": cache_bytes,
        "state_values_per_block": count.state_values(config),
        "weight_bytes": weights,
        "memory_bytes": {
            name: {str(length): size + length * cache_bytes for length in lengths}
            for name, size in weights.items()
        },
    }


def layer_kind(layer: LayerConfig) -> tuple[str, str]:
    """Mixer and feed-forward of a layer in words."""
    from mohist.model.config import LightningConfig, MlaConfig, MoeConfig

    mixer, mlp = layer.mixer, layer.mlp
    if isinstance(mixer, MlaConfig):
        attention = (
            f"latent attention, {mixer.num_heads} heads, latent {mixer.kv_rank} + rope {mixer.rope_dim}"
        )
        if mixer.indexer is not None:
            attention += f", sees {mixer.indexer.top_k} indexed tokens"
    elif isinstance(mixer, LightningConfig):
        attention = f"linear attention, {mixer.num_heads} heads of {mixer.head_dim}, a state a cache block"
    else:
        window = "" if mixer.window is None else f", window {mixer.window}"
        groups = f"{mixer.num_heads} heads over {mixer.num_kv_heads} key/value heads of {mixer.head_dim}"
        positions = "" if mixer.rope else ", no positions"
        attention = f"attention, {groups}{window}{positions}"
    if isinstance(mlp, MoeConfig):
        shared = f" and a shared one of {mlp.shared_width}" if mlp.shared_width else ""
        return attention, f"{mlp.top_k} of {mlp.num_experts} experts of {mlp.width}{shared}"
    return attention, f"feed-forward of {mlp.width}"


def stored_formats(checkpoint: Checkpoint) -> dict[str, int]:
    """Number formats in the file, and how many numbers are in each."""
    sizes: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        count = 1
        for extent in info.shape:
            count *= extent
        sizes[str(info.format)] += count
    return dict(sizes.most_common())


def chat_format(checkpoint: Checkpoint) -> str | None:
    """The chat format that the files beside the config lead to; None where there is no tokenizer."""
    from mohist.chat.chat import load_chat

    if checkpoint.kind == "safetensors" and not (checkpoint.path / "tokenizer.json").exists():
        return None
    chat = load_chat(checkpoint)
    return f"{chat.format.name}, thinking: {chat.thinking_mode}"


def as_text(model: str, facts: dict[str, Any]) -> str:
    """The facts as a table for people."""
    from mohist.kernels import load_ops

    ops = load_ops()
    rows = [("family", facts["family"])]
    for kind in facts["layers"]:
        rows.append(("layers", f"{kind['count']} x {kind['mixer']}; {kind['feed_forward']}"))
    rows += [
        ("hidden, vocabulary", f"{facts['hidden_size']:,}, {facts['vocab_size']:,}"),
        ("context", f"{facts['max_positions']:,} tokens"),
        ("parameters", parameters_text(facts)),
        ("work a token", f"{facts['flops_per_token'] / 1e9:.3g} GFLOP, attention to earlier tokens aside"),
        (
            "cache",
            f"{facts['cache_values_per_token']:,} values, {facts['cache_bytes_per_token']:,} bytes a token",
        ),
        ("stored as", stored_text(facts)),
        ("chat format", facts["chat"] or "no tokenizer here"),
        ("runs on", f"{ops.name}, {'exact' if ops.exact else 'close, not exact'}"),
    ]
    lines = [model, *(f"  {name:20}{text}" for name, text in rows), "", f"  {'memory as':12}{'weights':>12}"]
    lengths = list(facts["memory_bytes"]["f32"])
    lines[-1] += "".join(f"{f'+ {int(n):,} tokens':>20}" for n in lengths)
    for name, size in facts["weight_bytes"].items():
        totals = "".join(f"{size_text(facts['memory_bytes'][name][n]):>20}" for n in lengths)
        lines.append(f"  {name:12}{size_text(size):>12}{totals}")
    return "\n".join(lines)


def stored_text(facts: dict[str, Any]) -> str:
    """Formats in the file, and what those become that no kernel computes with."""
    become = {name: f", {kept} in memory" for name, kept in facts["expanded"].items()}
    formats = facts["stored"].items()
    return (
        ", ".join(f"{name} ({size:,} numbers{become.get(name, '')})" for name, size in formats)
        or "no weights"
    )


def parameters_text(facts: dict[str, Any]) -> str:
    """Parameters in all and for one token, and those of MTP modules."""
    text = f"{facts['parameters']:,}"
    if facts["active_parameters"] != facts["parameters"]:
        text += f", {facts['active_parameters']:,} for one token"
    return text + (f"; {facts['mtp_parameters']:,} more in MTP modules" if facts["mtp_parameters"] else "")


def size_text(num_bytes: int) -> str:
    """Bytes for people."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:,.2f} GiB"
    return f"{num_bytes / 2**20:,.{0 if num_bytes >= 10 * 2**20 else 2}f} MiB"
