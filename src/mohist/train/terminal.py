"""A run as one watches it: a few lines that are redrawn on a terminal, one line a step elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from time import perf_counter
from typing import Any, Protocol, TextIO

from mohist.train.progress import duration

__all__ = ["Quiet", "Terminal", "View"]

CURVES = ("reward", "accuracy", "length", "entropy")
"""Metrics that are drawn of reinforcement learning."""
LABELS = {
    "loss": "loss",
    "reward": "reward",
    "accuracy": "accuracy",
    "length": "length",
    "truncated": "cut off",
    "entropy": "entropy",
    "mismatch": "mismatch",
    "importance": "importance",
    "kl": "KL",
    "clipped": "clipped",
    "silent": "no signal",
    "held_out_loss": "held-out",
    "mtp_loss": "MTP loss",
    "grad_norm": "gradient",
    "expert_overload": "expert overload",
    "tokens_per_s": "tokens/s",
}
"""What people watch, and how it is called."""
SHARES = frozenset(("accuracy", "truncated", "clipped", "silent"))
"""Metrics shown in percent."""
BARS = "▁▂▃▄▅▆▇█"
REDRAW_S = 0.1
"""Least time between two drawings inside a step."""
RECENT = 20
"""Steps whose mean duration tells how long the rest takes."""
BOLD, DIM, RESET = "\x1b[1m", "\x1b[2m", "\x1b[0m"


class View(Protocol):
    """Whoever shows a run."""

    def begin(self, title: str, *, step: int, steps: int) -> None:
        """A run of `steps` steps goes on after `step` of them."""
        ...

    def working(self, what: str, done: int = 0, total: int = 0) -> None:
        """Inside a step: what is being done, and how far it is where that is known."""
        ...

    def step(self, step: int, metrics: Mapping[str, Any], cost: str) -> None:
        """A step is over; `cost` is what the run has cost so far, for people."""
        ...

    def say(self, text: str) -> None:
        """Something that happens once: an evaluation, the end."""
        ...


class Quiet:
    """Shows nothing."""

    def begin(self, title: str, *, step: int, steps: int) -> None:
        """See `View`."""

    def working(self, what: str, done: int = 0, total: int = 0) -> None:
        """See `View`."""

    def step(self, step: int, metrics: Mapping[str, Any], cost: str) -> None:
        """See `View`."""

    def say(self, text: str) -> None:
        """See `View`."""


class Terminal:
    """Shows a run on a text stream: standard error, unless told otherwise."""

    def __init__(self, out: TextIO | None = None, *, curves: Sequence[str] = CURVES) -> None:
        """`curves` are metrics to draw, as far as the run has them."""
        self._out = out or sys.stderr
        self._live = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._styled = self._live and "NO_COLOR" not in os.environ
        self._curves: dict[str, list[float]] = {name: [] for name in curves}
        self._seconds: list[float] = []
        self._metrics: Mapping[str, Any] = {}
        self._title = self._cost = self._doing = ""
        self._step = self._steps = self._num_drawn = 0
        self._drawn_at = 0.0

    def begin(self, title: str, *, step: int, steps: int) -> None:
        """See `View`."""
        self._title, self._step, self._steps = title, step, steps
        if not self._live:
            self.say(title)

    def working(self, what: str, done: int = 0, total: int = 0) -> None:
        """See `View`."""
        self._doing = f"{what} {done}/{total}" if total else what
        if self._live and perf_counter() - self._drawn_at >= REDRAW_S:
            self._draw()

    def step(self, step: int, metrics: Mapping[str, Any], cost: str) -> None:
        """See `View`."""
        self._step, self._metrics, self._cost = step, metrics, cost
        self._seconds = [*self._seconds[-RECENT + 1 :], metrics["seconds"]]
        for name, values in self._curves.items():
            if name in metrics:
                values.append(metrics[name])
        if self._live:
            self._draw()
        else:
            self._write(f"step {step}/{self._steps}  {'  '.join(figures(metrics))}  {self._pace()}\n")

    def say(self, text: str) -> None:
        """See `View`."""
        self._write(self._erased() + text + "\n")
        self._num_drawn = 0

    def _draw(self) -> None:
        """Write the block of lines over the one before."""
        self._drawn_at = perf_counter()
        width = shutil.get_terminal_size().columns - 1
        lines = [line[:width] for line in self._block(width)]
        if self._styled and lines:
            lines[0], lines[-1] = f"{BOLD}{lines[0]}{RESET}", f"{DIM}{lines[-1]}{RESET}"
        self._write(self._erased() + "".join(line + "\n" for line in lines))
        self._num_drawn = len(lines)

    def _block(self, width: int) -> list[str]:
        lines = [f"{self._title}  step {self._step}/{self._steps}  {self._pace()}"]
        for name, values in self._curves.items():
            if values:
                lines.append(
                    f"  {LABELS[name]:9} {figure(name, values[-1]):>8}  {sparkline(values, width - 24)}"
                )
        rest = {name: value for name, value in self._metrics.items() if name not in self._curves}
        if rest:
            lines.append("  " + "  ".join(figures(rest)))
        return [*lines, f"  {self._doing}"]

    def _pace(self) -> str:
        """Time left and cost so far."""
        left = (self._steps - self._step) * sum(self._seconds) / max(len(self._seconds), 1)
        parts = [f"{duration(left)} left"] if self._seconds else []
        return ", ".join([*parts, *filter(None, [self._cost])])

    def _erased(self) -> str:
        """What takes the cursor back over the last block, and clears it."""
        return (f"\x1b[{self._num_drawn}A" + "\x1b[J") if self._num_drawn else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def figures(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics that people watch, with their names."""
    # the loss of a policy says nothing: on policy it is about 0
    names = [name for name in LABELS if name in metrics and not (name == "loss" and "reward" in metrics)]
    return [f"{LABELS[name]} {figure(name, metrics[name])}" for name in names]


def figure(name: str, value: float) -> str:
    """A number as its metric is read."""
    if name in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The latest values as bars, at most `width` of them; older ones are averaged together."""
    width = max(width, 1)
    count = len(values)
    columns = min(count, width)
    edges = [i * count // columns for i in range(columns + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in means)
