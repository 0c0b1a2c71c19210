"""Runs of a tiny model as processes of their own, to be started several at a time, or killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.train import tiny

ROOT = Path(__file__).parents[2]


def write_config(folder: Path, **changes: str) -> Path:
    """A config for `mohist sft` of a model made here."""
    tiny.write_model(folder / "base")
    tiny.write_jsonl(folder / "data.jsonl", tiny.conversations(48))
    values = {
        "model": f'"{folder}/base"',
        "data": f'"{folder}/data.jsonl"',
        "steps": "8",
        "samples_per_step": "6",
        "max_tokens": "100",
        "held_out_share": "0.2",
        "evaluate_every": "4",
        "threads": "1",
        "optim.lr": "0.01",
        "run.save_every": "1",
    } | changes
    path = folder / "sft.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    return path


@contextlib.contextmanager
def started(
    config: Path, folder: Path, *options: str, **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    """`mohist sft` as a process, which is gone after the block."""
    words = ["-m", "mohist", "sft", str(config), "--run.folder", str(folder), *options]
    variables = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"} | environment
    with subprocess.Popen(
        [sys.executable, *words], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[bytes]) -> Path:
    """Wait for the end; the folder that it printed."""
    out, err = process.communicate()
    assert process.returncode == 0, err.decode()
    return Path(out.decode().strip().splitlines()[-1])


def run(config: Path, folder: Path, *options: str) -> Path:
    """From start to end."""
    with started(config, folder, *options) as process:
        return finish(process)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What was logged, times aside."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["tokens_per_s"]
    return rows
