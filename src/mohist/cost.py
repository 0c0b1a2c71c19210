"""What an answer or a run costs: tokens, floating-point operations, seconds, memory and money.

A `Cost` is one entry; costs add up (peak memory takes the larger). A `Ledger` keeps them by name, as a run's
`ledger.json` does. Money comes from `Prices`: a rate for tokens, a rate for the machine's time, or both.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mohist.errors import ConfigError
from mohist.types import Usage

__all__ = ["Cost", "Ledger", "Prices", "peak_memory_bytes"]

MOST_PRICE = 10**9
"""Sums of costs stay whole numbers of 64 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """What tokens and time cost. All rates are in the same currency; 0 means that it is not charged."""

    currency: str = "USD"
    prompt_per_million: float = 0.0
    """For a million prompt tokens that had to be computed."""
    cached_per_million: float = 0.0
    """For a million prompt tokens that came from the prefix cache."""
    completion_per_million: float = 0.0
    """For a million generated tokens."""
    machine_per_hour: float = 0.0
    """For an hour of the machine, whatever it computes."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            price = getattr(self, entry.name)
            if entry.name != "currency" and not 0 <= price <= MOST_PRICE:
                raise ConfigError(f"{entry.name} = {price}: a price is a number from 0 to {MOST_PRICE:,}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one piece of work used."""

    prompt_tokens: int = 0
    """Tokens in, those from the cache included."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were in the prefix cache."""
    completion_tokens: int = 0
    """Tokens out."""
    drafted_tokens: int = 0
    """Guesses that speculation had computed."""
    accepted_tokens: int = 0
    """Those of them that were right: tokens out that needed no step of their own."""
    flops: int = 0
    """Floating-point operations; a multiply-add counts as two."""
    seconds: float = 0.0
    """Wall time."""
    peak_bytes: int = 0
    """Largest resident memory of the process up to the end of the work."""

    def __add__(self, other: Cost) -> Cost:
        total = {entry.name: getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(self)}
        return Cost(**total | {"peak_bytes": max(self.peak_bytes, other.peak_bytes)})

    @classmethod
    def of(cls, usage: Usage, *, flops: int = 0, seconds: float = 0.0, peak_bytes: int = 0) -> Cost:
        """The cost of one request, from the usage that the engine reports."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            drafted_tokens=usage.drafted_tokens,
            accepted_tokens=usage.accepted_tokens,
            flops=flops,
            seconds=seconds,
            peak_bytes=peak_bytes,
        )

    def money(self, prices: Prices) -> float:
        """The price of this work, in the currency of `prices`."""
        tokens = (
            (self.prompt_tokens - self.cached_tokens) * prices.prompt_per_million
            + self.cached_tokens * prices.cached_per_million
            + self.completion_tokens * prices.completion_per_million
        )
        return tokens / 1e6 + self.seconds / 3600 * prices.machine_per_hour

    def line(self, prices: Prices | None = None) -> str:
        """The cost on one line, for people; money only when there are prices."""
        cached = f" ({self.cached_tokens} cached)" if self.cached_tokens else ""
        guessed = (
            f" ({self.accepted_tokens} of {self.drafted_tokens} guessed right)" if self.drafted_tokens else ""
        )
        parts = [
            f"{self.prompt_tokens}{cached} tokens in, {self.completion_tokens} out{guessed}",
            f"{self.seconds:.2f} s",
        ]
        if self.flops:
            parts.append(f"{self.flops / 1e9:.3g} GFLOP")
        if self.peak_bytes:
            parts.append(f"peak {self.peak_bytes / 2**20:.0f} MiB")
        if prices is not None:
            parts.append(f"{self.money(prices):.3g} {prices.currency}")
        return ", ".join(parts)


@dataclass(kw_only=True, slots=True)
class Ledger:
    """Costs by name ("rollout", "train", ...), in the order of their first entry."""

    entries: dict[str, Cost] = field(default_factory=dict)

    def add(self, name: str, cost: Cost) -> None:
        """Book `cost` under `name`."""
        assert name != "total", "the ledger adds the total up itself"
        self.entries[name] = self.entries.get(name, Cost()) + cost

    @property
    def total(self) -> Cost:
        """Everything booked."""
        return sum(self.entries.values(), start=Cost())

    def to_json(self, prices: Prices | None = None) -> str:
        """The ledger as JSON text; `from_json` reads it back. With prices, each entry also has its money."""
        rows: dict[str, Any] = {}
        for name, cost in [*self.entries.items(), ("total", self.total)]:
            rows[name] = asdict(cost)
            if prices is not None:
                rows[name] |= {"money": cost.money(prices), "currency": prices.currency}
        return json.dumps(rows, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """The ledger that `to_json` wrote; what an earlier version did not count is 0."""
        known = {entry.name for entry in fields(Cost)}
        rows: Mapping[str, Mapping[str, Any]] = json.loads(text)
        entries = {
            name: Cost(**{key: value for key, value in row.items() if key in known})
            for name, row in rows.items()
            if name != "total"
        }
        return cls(entries=entries)


def peak_memory_bytes() -> int:
    """The largest resident memory that this process has had: VmHWM on Linux, else what getrusage says."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
