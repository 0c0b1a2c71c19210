"""How far a run is, what it costs, and when it ends: one line a step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter

from mohist.cost import Cost, peak_memory_bytes
from mohist.model.config import DecoderConfig
from mohist.model.count import flops_per_token
from mohist.train.run import Run

__all__ = ["TYPICAL_CONTEXT", "Progress", "duration"]

_SHOWN = ("loss", "held_out_loss", "mtp_loss", "balance_loss", "expert_overload", "grad_norm", "lr")


TYPICAL_CONTEXT = 256
"""Tokens that attention looks back to, when FLOPs are counted; a small part of them for short samples."""


class Progress:
    """The clock of a loop."""

    def __init__(self, config: DecoderConfig, *, start: int, total_steps: int) -> None:
        self._config, self._start, self._total = config, start, total_steps
        self._begin = self._last = perf_counter()

    def lap(self, num_tokens: float, *, passes: float) -> Cost:
        """The cost of what was done since the lap before: `num_tokens` rows, so many forward passes each.

        Forward and backward are 3, and 4 when activations are computed again.
        """
        now = perf_counter()
        seconds, self._last = now - self._last, now
        flops = round(passes * num_tokens * flops_per_token(self._config, TYPICAL_CONTEXT))
        peak = peak_memory_bytes()
        return Cost(prompt_tokens=int(num_tokens), flops=flops, seconds=seconds, peak_bytes=peak)

    def show(self, step: int, metrics: Mapping[str, float], run: Run) -> None:
        """Print the step's line to standard error: what was measured, speed, time left, money so far."""
        if not run.writes:
            return
        left = (perf_counter() - self._begin) / (step - self._start) * (self._total - step)
        shown = [f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics]
        speed = f"{metrics['num_tokens'] / metrics['seconds']:.0f} tokens/s, {duration(left)} left"
        prices = run.config.prices
        money = f"{run.ledger.total.money(prices):.3g} {prices.currency}" if prices.machine_per_hour else ""
        print(f"step {step}/{self._total}", *shown, speed, *filter(None, [money]), sep="  ", file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `3:07`, `2:03:07`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
