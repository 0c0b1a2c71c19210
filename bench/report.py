"""What a benchmark hands back, and how it is printed: Markdown that can go into docs/log.md as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.measure import Goal, Series

__all__ = ["Report", "as_json", "goals_table", "markdown", "number", "series_table", "table"]


@dataclass(kw_only=True)
class Report:
    """One benchmark's outcome."""

    title: str
    tables: list[str]
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """Every measured value, for --json."""
    failed: bool = False
    """Whether something is wrong, which a slow machine cannot explain."""


def number(value: float) -> str:
    """Three significant digits, or all digits of the whole part."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def series_table(title: str, series: Iterable[Series], unit: str, *extra: tuple[str, dict[str, str]]) -> str:
    """A row for each series: median, spread, and what others used of the machine in the worst of its runs.

    `extra` are more columns as (header, name -> text).
    """
    rows = [
        [
            one.name,
            number(one.median),
            spread(one),
            f"{max(one.others):.0%}" if one.others else "",
            *(column.get(one.name, "") for _, column in extra),
        ]
        for one in series
    ]
    return table([title, unit, "from - to", "others, at most", *(header for header, _ in extra)], rows)


def spread(series: Series) -> str:
    """The smallest and the largest value."""
    low, high = series.spread
    return f"{number(low)} - {number(high)}"


def goals_table(goals: Iterable[Goal]) -> str:
    """A row for each goal."""
    return table(
        ["goal", "measured", "from - to", "wanted", ""],
        [
            [
                goal.what,
                f"{number(goal.measured)} {goal.unit}".strip(),
                f"{number(goal.low)} - {number(goal.high)}",
                f"{goal.sign} {number(goal.bound)}",
                "reached" if goal.met else "**missed**",
            ]
            for goal in goals
        ],
    )


def markdown(report: Report) -> str:
    """The report as a section."""
    parts = [f"### {report.title}", *report.tables]
    if report.goals:
        parts.append(goals_table(report.goals))
    parts += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    return "\n\n".join(parts)


def as_json(report: Report) -> dict[str, Any]:
    """The report for --json."""
    goals = [dataclasses.asdict(goal) | {"met": goal.met} for goal in report.goals]
    data = {
        name: {"values": x.values, "others": x.others} if isinstance(x, Series) else x
        for name, x in report.data.items()
    }
    return {
        "title": report.title,
        "failed": report.failed,
        "goals": goals,
        "notes": report.notes,
        "data": data,
    }
