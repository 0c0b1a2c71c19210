"""Tokens a second, of the last minutes, for people who watch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mohist.engine.engine import EngineStats

__all__ = ["Moment", "Throughput"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One model between two looks at it."""

    at_ms: int
    """The later look: milliseconds since 1970."""
    model: str
    running: int
    waiting: int
    cache_used: float
    """Share of the cache's blocks that requests hold, 0 to 1."""
    generated_per_s: float
    """Tokens drawn in a second."""
    computed_per_s: float
    """Rows computed in a second: tokens drawn, and tokens of prompts that were not in the cache."""


class Throughput:
    """Looks at the engines' counts when `look` is called, and keeps what it saw."""

    def __init__(
        self,
        stats: Callable[[], Mapping[str, EngineStats]],
        *,
        keep: int = 300,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`keep`: how many looks are kept."""
        self._stats = stats
        self._now_ms = now_ms
        self._before: tuple[int, Mapping[str, EngineStats]] = (0, {})
        self._looks: deque[list[Moment]] = deque(maxlen=keep)

    @property
    def moments(self) -> list[Moment]:
        """The oldest first."""
        return [moment for look in self._looks for moment in look]

    def look(self) -> None:
        """Compare every engine's counts with those of the last look. A new engine waits for the next one."""
        (before_ms, before), now_ms, now = self._before, self._now_ms(), dict(self._stats())
        self._before = (now_ms, now)
        seconds = (now_ms - before_ms) / 1000
        if seconds <= 0:
            return
        self._looks.append(
            [
                _moment(now_ms, model, before[model], stats, seconds)
                for model, stats in now.items()
                # Fewer steps than before: it was loaded anew.
                if model in before and stats.steps >= before[model].steps
            ]
        )


def _moment(at_ms: int, model: str, before: EngineStats, now: EngineStats, seconds: float) -> Moment:
    return Moment(
        at_ms=at_ms,
        model=model,
        running=now.running,
        waiting=now.waiting,
        cache_used=now.blocks_used / now.blocks_total,
        generated_per_s=(now.generated_tokens - before.generated_tokens) / seconds,
        computed_per_s=(now.computed_tokens - before.computed_tokens) / seconds,
    )
