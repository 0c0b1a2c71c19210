"""What the steps of a loop cost, by the clock and by counting."""

from __future__ import annotations

from time import perf_counter

from mohist.cost import Cost, peak_memory_bytes
from mohist.model.config import DecoderConfig
from mohist.model.count import flops_per_token

__all__ = ["TYPICAL_CONTEXT", "Progress", "duration"]

TYPICAL_CONTEXT = 256
"""Tokens that attention looks back to, when FLOPs are counted; a small part of them for short samples."""


class Progress:
    """The clock of a loop."""

    def __init__(self, config: DecoderConfig) -> None:
        self._config = config
        self._last = perf_counter()

    def lap(self, num_tokens: float, *, passes: float) -> Cost:
        """The cost of what was done since the lap before: `num_tokens` rows, so many forward passes each.

        Forward and backward are 3, and 4 when activations are computed again.
        """
        now = perf_counter()
        seconds, self._last = now - self._last, now
        flops = round(passes * num_tokens * flops_per_token(self._config, TYPICAL_CONTEXT))
        peak = peak_memory_bytes()
        return Cost(prompt_tokens=int(num_tokens), flops=flops, seconds=seconds, peak_bytes=peak)


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `3:07`, `2:03:07`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
