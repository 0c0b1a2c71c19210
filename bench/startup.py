"""From the command to the first token, beside an import of PyTorch alone."""

from __future__ import annotations

from bench.commands import IMPORT_TORCH, generate, outcome
from bench.machine import Ticks
from bench.measure import alternate, at_most
from bench.report import Report, series_table

__all__ = ["REPEATS", "run"]

REPEATS = 5


def run(files: dict[str, str], repeats: int) -> Report:
    """Two commands in turn; the difference is taken round by round."""
    command = generate(files["q4_1"], 1)
    series = alternate(
        {
            "mohist generate": lambda seed: outcome(command).first_output_s,
            "import torch": lambda seed: outcome(IMPORT_TORCH).first_output_s,
        },
        repeats,
        Ticks.now,
    )
    ours, torch = series.values()
    own = ours.minus(torch, "difference")
    return Report(
        title="From the command to the first token, Q4_1 file",
        tables=[series_table("", [ours, torch, own], "s")],
        goals=[at_most("first token after import torch", own, 1.0, "s")],
        notes=["Wall time to the first byte on standard output, default threads, files in the page cache."],
        data=dict(series),
    )
