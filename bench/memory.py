"""Peak memory of one answer on the Q4_1 file, beside llama.cpp and beside an import of PyTorch alone."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bench.commands import IMPORT_TORCH, PROMPT, generate, outcome
from bench.machine import Ticks
from bench.measure import alternate, at_most
from bench.report import Report, series_table

__all__ = ["REPEATS", "run"]

REPEATS = 3
NEW_TOKENS = 40


def run(files: dict[str, str], repeats: int) -> Report:
    """Three commands in turn."""
    path = files["q4_1"]
    llama = [sys.executable, "-m", "bench.llama_answer", path, PROMPT, str(NEW_TOKENS)]
    series = alternate(
        {
            "mohist generate": peak(generate(path, NEW_TOKENS)),
            "import torch": peak(IMPORT_TORCH),
            "llama.cpp": peak(llama),
        },
        repeats,
        Ticks.now,
        warm_up=False,
        tries=1,
    )
    ours, torch, theirs = series.values()
    own = ours.minus(torch, "mohist generate beyond import torch")
    return Report(
        title="Peak memory of one answer, Q4_1 file",
        tables=[series_table("", [*series.values(), own], "MB")],
        goals=[at_most("Mohist beyond PyTorch, llama.cpp's as the bound", own, theirs.median, "MB")],
        notes=[
            f"The highest resident memory of the process (VmHWM), MB of 10^6 bytes, {NEW_TOKENS} new tokens, "
            "default threads. Mohist with its default cache (16,384 tokens, memory for which is "
            "taken when used); llama.cpp as llama-cpp-python's `Llama` has it by default: a context of 512 "
            "tokens, the file mapped into memory.",
        ],
        data=dict(series),
    )


def peak(command: list[str]) -> Callable[[int], float]:
    """A run that measures a command's peak in MB."""
    return lambda seed: outcome(command).peak_bytes / 1e6
