"""What decoding steps take, by their number of rows: measured, and estimated where nothing was."""

from __future__ import annotations

from collections import OrderedDict, deque

__all__ = ["StepTimes"]


class StepTimes:
    """Seconds of a decoding step, by its number of rows."""

    FIXED_ROWS = 10
    """What a step costs beside its rows, in rows: an estimate, for sizes that were never measured."""
    KEPT, FORGOTTEN = 5, 300
    """Measurements of a size that count; steps after which a size that did not occur is unknown again."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}
        self._last: OrderedDict[int, int] = OrderedDict()
        """When each size last occurred, the longest ago first."""
        self._num_steps = 0
        self._known: dict[int, float] = {}
        """The least of the recent ones: what disturbs a measurement only ever adds to it."""

    def add(self, rows: int, seconds: float) -> None:
        """Take note of a step."""
        self._num_steps += 1
        self._last[rows] = self._num_steps
        self._last.move_to_end(rows)
        recent = self._recent.setdefault(rows, deque(maxlen=self.KEPT))
        recent.append(seconds)
        self._known[rows] = min(recent)
        oldest = next(iter(self._last))
        if self._num_steps - self._last[oldest] > self.FORGOTTEN:
            del self._last[oldest], self._recent[oldest], self._known[oldest]

    def of(self, rows: int) -> float | None:
        """Seconds that a step of so many rows takes, measured or estimated; None while nothing is known."""
        known = self._known
        if rows in known or not known:
            return known.get(rows)
        below = max((size for size in known if size < rows), default=None)
        above = min((size for size in known if size > rows), default=None)
        if below is not None and above is not None:
            share = (rows - below) / (above - below)
            return known[below] + share * (known[above] - known[below])
        size = below if below is not None else above
        assert size is not None
        return known[size] * (rows + self.FIXED_ROWS) / (size + self.FIXED_ROWS)

    def at_most(self, rows: int) -> float | None:
        """The same, but a row beyond what was measured may cost as much as a step of its own."""
        largest = max(self._known, default=0)
        if rows <= largest or not largest:
            return self.of(rows)
        return self._known[largest] * (1 + (rows - largest) / largest)
