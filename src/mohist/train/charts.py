"""Line charts as SVG text: no library, no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

__all__ = ["Chart", "Line", "written"]

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24
"""Margins around the plot, for labels."""
MOST_POINTS = 400
"""Longer lines are averaged into so many points."""
SMOOTHED_FROM = 30
"""Lines with at least so many points are drawn faint, under their moving average."""

Unit = Literal["number", "percent", "power"]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: a value at each of its steps, ascending."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """Where the value may be: drawn as a band."""
    is_dotted: bool = False
    """Few points that stand for themselves: drawn as dots, and never smoothed."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines that share their axes."""

    title: str
    note: str
    """What a reader should know, in a sentence."""
    lines: Sequence[Line]
    unit: Unit = "number"
    """How values are written; "power" marks the axis with powers of ten, zero lying at its foot."""

    def svg(self) -> str:
        """The chart, `WIDTH` by `HEIGHT`."""
        lines = [_thinned(line) for line in self.lines]
        scale = _Scale.of(lines, self.unit)
        grid = [
            f'<path class="grid" d="M{LEFT},{scale.y(t):.1f}H{WIDTH - RIGHT}"/>'
            f'<text class="tick" x="{LEFT - 6}" y="{scale.y(t) + 3.5:.1f}" text-anchor="end">'
            f"{written(t, self.unit)}</text>"
            for t in scale.ticks
        ]
        grid += [
            f'<text class="tick" x="{scale.x(t):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{t:,.0f}</text>'
            for t in _ticks(scale.first, scale.last, 5)
            if t == round(t)
        ]
        drawn = [_drawn(line, scale, index) for index, line in enumerate(lines)]
        return (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(grid)}{"".join(drawn)}'
            f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
        )

    def data(self) -> dict[str, Any]:
        """What the page needs to show values under the pointer."""
        scale = _Scale.of([_thinned(line) for line in self.lines], self.unit)
        return {
            "range": [scale.first, scale.last],
            "lines": [
                {
                    "label": line.label,
                    "steps": list(line.steps),
                    "values": [written(value, self.unit) for value in line.values],
                }
                for line in self.lines
            ],
        }


def written(value: float, unit: Unit) -> str:
    """A value for people."""
    if unit == "percent":
        return f"{100 * value:.3g} %"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From steps and values to places on the drawing."""

    first: float
    last: float
    bottom: float
    top: float
    ticks: Sequence[float]
    unit: Unit

    @classmethod
    def of(cls, lines: Sequence[Line], unit: Unit) -> _Scale:
        steps = [step for line in lines for step in line.steps]
        ends = [v for line in lines for each in (line.values, line.low, line.high) if each for v in each]
        first, last = min(steps), max(steps)
        if unit == "power":
            least = min((value for value in ends if value > 0), default=1e-9)
            bottom, top = math.floor(math.log10(least)) - 1, math.ceil(math.log10(max(*ends, least))) + 1
            ticks = [0.0, *(10.0**e for e in range(bottom + 1, top, max(1, (top - bottom) // 4)))]
        else:
            low, high = min(ends), max(ends)
            pad = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
            bottom = low if low == 0 else low - pad
            top = high if unit == "percent" and high == 1 else high + pad
            ticks = _ticks(bottom, top, 4)
        return cls(
            first=first,
            last=last if last > first else first + 1,
            bottom=bottom,
            top=top,
            ticks=ticks,
            unit=unit,
        )

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        if self.unit == "power":
            value = math.log10(value) if value > 0 else self.bottom
        return TOP + (self.top - value) / (self.top - self.bottom) * (HEIGHT - TOP - BOTTOM)


def _drawn(line: Line, scale: _Scale, index: int) -> str:
    """Band, line and dots, in the colour of the `index`-th line."""
    parts = []
    if line.low and line.high and len(line.steps) > 1:
        there = [f"{scale.x(s):.1f},{scale.y(v):.1f}" for s, v in zip(line.steps, line.high, strict=True)]
        back = [f"{scale.x(s):.1f},{scale.y(v):.1f}" for s, v in zip(line.steps, line.low, strict=True)]
        parts.append(f'<polygon class="band c{index}" points="{" ".join(there + back[::-1])}"/>')
    values = line.values
    if len(values) >= SMOOTHED_FROM and not line.is_dotted:
        parts.append(f'<polyline class="faint c{index}" points="{_points(line.steps, values, scale)}"/>')
        values = _smoothed(values)
    parts.append(f'<polyline class="line c{index}" points="{_points(line.steps, values, scale)}"/>')
    if line.is_dotted or len(values) == 1:
        parts += [
            f'<circle class="dot c{index}" r="3" cx="{scale.x(s):.1f}" cy="{scale.y(v):.1f}"/>'
            for s, v in zip(line.steps, line.values, strict=True)
        ]
    return "".join(parts)


def _points(steps: Sequence[float], values: Sequence[float], scale: _Scale) -> str:
    return " ".join(f"{scale.x(s):.1f},{scale.y(v):.1f}" for s, v in zip(steps, values, strict=True))


def _thinned(line: Line) -> Line:
    """At most `MOST_POINTS` points, each the mean of its neighbours."""
    count = len(line.steps)
    if count <= MOST_POINTS or line.is_dotted:
        return line
    edges = [i * count // MOST_POINTS for i in range(MOST_POINTS + 1)]
    return Line(
        label=line.label,
        steps=[fmean(line.steps[a:b]) for a, b in pairwise(edges)],
        values=[fmean(line.values[a:b]) for a, b in pairwise(edges)],
    )


def _smoothed(values: Sequence[float]) -> list[float]:
    """The mean of every value and its neighbours, a twentieth of all values together."""
    reach = max(1, len(values) // 40)
    return [fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
