"""`mohist convert`: a model as another kind of file, or with fewer bits."""

from __future__ import annotations

import argparse
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mohist.cli.terminal import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mohist.weights.checkpoint import Checkpoint
    from mohist.weights.formats import Format, RawTensor

SUMMARY = "convert a model between Hugging Face folders and GGUF files, or quantise it"
EXAMPLES = """\
  mohist convert hf:Qwen/Qwen3-0.6B qwen3.gguf
  mohist convert hf:Qwen/Qwen3-0.6B qwen3-q8_0.gguf --quantize q8_0
  mohist convert model.gguf model-folder --format safetensors
"""

_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "bf16": 32}
"""Values of `general.file_type` (llama.cpp, `llama_ftype`)."""
_SAMPLE = Path(__file__).parents[1] / "sample.txt"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("source", metavar="SRC", help="a folder, a .gguf file, hf:ORG/NAME or pypi:PACKAGE")
    parser.add_argument(
        "target", metavar="DST", type=Path, help="the file or folder to write; must not exist"
    )
    parser.add_argument(
        "--format",
        choices=["safetensors", "gguf"],
        help="default: gguf if DST ends in .gguf, else safetensors",
    )
    parser.add_argument(
        "--quantize",
        choices=list(_FILE_TYPES),
        help="turn the matrices into this format; without it nothing is rounded",
    )
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="measure the loss on this text (default: a text that comes with Mohist)",
    )
    parser.add_argument("--no-loss", action="store_true", help="do not measure what rounding costs")
    parser.add_argument("--offline", action="store_true", help="use only what was fetched before")


def run(args: argparse.Namespace) -> int:
    """Convert, and say what it cost."""
    from mohist.errors import WeightsError
    from mohist.weights.checkpoint import open_checkpoint
    from mohist.weights.formats import Format
    from mohist.weights.source import resolve

    kind = args.format or ("gguf" if args.target.suffix == ".gguf" else "safetensors")
    format = None if args.quantize is None else Format(args.quantize)
    if args.target.exists():
        raise WeightsError(f"{args.target}: exists already; name another file or folder, or remove it")
    measures = format is not None and not args.no_loss
    text = read_text(args.text or _SAMPLE) if measures else ""
    with Status(f"opening {args.source}") as status:
        checkpoint = open_checkpoint(resolve(args.source, offline=args.offline, progress=status.progress))
        args.target.parent.mkdir(parents=True, exist_ok=True)
        write = write_gguf_file if kind == "gguf" else write_folder
        write(checkpoint, args.target, format, status)
    print(f"{args.target}: {total_bytes(args.target):,} bytes")
    if measures:
        print(loss_lines(checkpoint, args.target, text))
    return 0


def read_text(path: Path) -> str:
    """The text in a file. Raises WeightsError when there is none."""
    from mohist.errors import WeightsError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read as text: {error}") from error


def write_gguf_file(checkpoint: Checkpoint, target: Path, format: Format | None, status: Status) -> None:
    """Write a GGUF file: weights, config, tokenizer and template in one."""
    from mohist.chat.chat import load_chat
    from mohist.chat.gguf_metadata import tokenizer_to_gguf
    from mohist.model.convert import Conversion, requantized
    from mohist.weights.gguf_writer import write_gguf_stream

    if checkpoint.kind == "gguf":
        infos, tensors = requantized(checkpoint, format)
        metadata = dict(checkpoint.config)
        if format is not None:
            metadata |= {"general.file_type": _FILE_TYPES[format], "general.quantization_version": 2}
    else:
        conversion = Conversion(checkpoint, kind="gguf", format=format)
        infos, tensors = conversion.infos, conversion.tensors()
        stored = format or max((info.format for info in infos if len(info.shape) > 1), default="f32")
        metadata = {
            **conversion.gguf_metadata(),
            "general.name": checkpoint.path.name,
            "general.file_type": _FILE_TYPES[stored],
            "general.quantization_version": 2,
            **tokenizer_to_gguf(load_chat(checkpoint).tokenizer, vocab_size=conversion.config.vocab_size),
        }
    write_gguf_stream(target, metadata, infos, told(tensors, len(infos), status))


def write_folder(checkpoint: Checkpoint, target: Path, format: Format | None, status: Status) -> None:
    """Write a Hugging Face folder: under another name first, so that it appears whole or not at all."""
    from mohist.chat.chat import load_chat
    from mohist.chat.save import save_chat
    from mohist.model.convert import Conversion
    from mohist.weights.checkpoint import save_safetensors

    conversion = Conversion(checkpoint, kind="safetensors", format=format)
    tensors = told(conversion.tensors(), len(conversion.infos), status)
    unfinished = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        save_safetensors(
            unfinished, ((raw.info.name, raw.data) for raw in tensors), config=conversion.hf_config()
        )
        source = checkpoint.path if checkpoint.kind == "safetensors" else None
        save_chat(load_chat(checkpoint), unfinished, source=source)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def told(tensors: Iterable[RawTensor], count: int, status: Status) -> Iterator[RawTensor]:
    """`tensors`, saying how many of them are done."""
    for done, raw in enumerate(tensors):
        status.progress(f"converting {raw.info.name}", done, count)
        yield raw


def loss_lines(checkpoint: Checkpoint, target: Path, text: str) -> str:
    """What the conversion cost on a text: by the rounding of the weights alone, and as Mohist runs them.

    The kernels of quantised weights round their inputs, too: to 16 bits for Q8_0, else to 8.
    """
    from mohist.chat.chat import load_chat
    from mohist.errors import WeightsError
    from mohist.kernels import load_ops
    from mohist.model.load import load_decoder
    from mohist.model.loss import measure_loss
    from mohist.weights.checkpoint import open_checkpoint

    tokens = load_chat(checkpoint).tokenizer.prompt(text)
    if len(tokens) < 2:
        raise WeightsError(f"--text: {text!r} is too short to measure a loss on")
    with Status("measuring the loss"):
        ops, written = load_ops(), open_checkpoint(target)
        reference = load_decoder(checkpoint, ops, quantize="f32")
        weights = measure_loss(reference, load_decoder(written, ops, quantize="f32"), tokens)
        as_run = measure_loss(reference, load_decoder(written, ops), tokens)
    return (
        "against the source, all in float32 arithmetic:\n"
        f"  rounded weights:   {weights.line()}\n  as Mohist runs it: {as_run.line()}"
    )


def total_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files: list[Any] = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
