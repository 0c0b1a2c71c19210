"""`mohist runs`: what was trained, how it went, and how two runs differ."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mohist.errors import ConfigError

SUMMARY = "list runs, and compare them"
EXAMPLES = """\
  mohist runs
  mohist runs runs/countdown
  mohist runs runs/a runs/b
  mohist runs --json
  mohist runs --tensorboard events
"""

FIGURES = {
    "reward": max,
    "accuracy": max,
    "held_out_loss": min,
    "loss": min,
    "entropy": None,
    "length": None,
    "mismatch": max,
}
"""Metrics that are listed, and which of their values is the best one (of the mismatch: the worst)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run, read from its folder."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    """By dotted keys."""
    metrics: Sequence[Mapping[str, Any]]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(row.get("seconds", 0.0) for row in self.metrics)

    def figures(self) -> dict[str, tuple[float, float]]:
        """(last, best) of every listed metric; of evaluations, of the accuracy."""
        found: dict[str, tuple[float, float]] = {}
        evaluations = [row["evaluation"] for row in self.metrics if row.get("evaluation")]
        for title in evaluations[-1] if evaluations else ():
            values = [one[title]["accuracy"] for one in evaluations if title in one]
            found[f"evaluation, {title}"] = values[-1], max(values)
        for name, best in FIGURES.items():
            values = [row[name] for row in self.metrics if name in row]
            # The loss of a policy says nothing: on policy it is about 0.
            if values and not (name == "loss" and "reward" in found):
                found[name] = values[-1], (best or _last)(values)
        return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        help="a folder of runs, or runs to compare (default: runs)",
    )
    parser.add_argument(
        "--tensorboard", type=Path, metavar="OUT", help="write the metrics as event files, a folder a run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a run")


def run(args: argparse.Namespace) -> int:
    """Print a row for each run, or a column where runs are named, with what differs in their configs."""
    folders = [run for folder in args.folders for run in found(folder)]
    rows = [read(folder) for folder in folders]
    if args.tensorboard is not None:
        from mohist.train.tensorboard import export_events

        for row in rows:
            print(export_events(row.folder, args.tensorboard / row.name))
    elif args.json:
        for row in rows:
            print(json.dumps(as_json(row)))
    elif len(args.folders) > 1 or len(rows) == 1:
        print(comparison(rows))
    else:
        print(listing(rows))
    sys.stdout.flush()
    return 0


def found(folder: Path) -> list[Path]:
    """The folder, if it is a run, or the runs in it. Raises ConfigError if there are none."""
    if (folder / "config.toml").is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob("*/config.toml"))
    if not runs:
        raise ConfigError(f"{folder}: no runs there: name a run's folder, or a folder with runs in it")
    return runs


def read(folder: Path) -> Row:
    """A run's config and metrics."""
    from mohist.train.logs import read_metrics

    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    return Row(name=folder.name, folder=folder, config=dict(_flat(config)), metrics=read_metrics(folder))


def listing(rows: Sequence[Row]) -> str:
    """A line for every run: how far it is, and its last figures."""
    names = list(dict.fromkeys(name for row in rows for name in row.figures()))
    table = [["run", "step", "of", "time", *names]]
    for row in rows:
        figures = row.figures()
        steps = row.config.get("steps")
        line = [row.name, f"{row.step}", f"{steps}" if steps else "", _duration(row.seconds)]
        table.append([*line, *(spelled(name, figures[name][0]) if name in figures else "" for name in names)])
    return _aligned(table)


def comparison(rows: Sequence[Row]) -> str:
    """A column for every run: figures as last (best), then every key of the config that is not the same."""
    table = [["", *(row.name for row in rows)]]
    table.append(["step", *(f"{row.step}" for row in rows)])
    table.append(["time", *(_duration(row.seconds) for row in rows)])
    for name in dict.fromkeys(name for row in rows for name in row.figures()):
        pairs = [row.figures().get(name) for row in rows]
        table.append([name, *("" if pair is None else _pair(name, *pair) for pair in pairs)])
    for key in dict.fromkeys(key for row in rows for key in row.config):
        values = [row.config.get(key, "") for row in rows]
        if len(rows) > 1 and key != "run.folder" and any(value != values[0] for value in values):
            table.append([key, *(f"{value}" for value in values)])
    return _aligned(table)


def as_json(row: Row) -> dict[str, Any]:
    """One run's line for programs."""
    figures = {name: {"last": last, "best": best} for name, (last, best) in row.figures().items()}
    return {"run": str(row.folder), "step": row.step, "seconds": row.seconds, "figures": figures} | {
        "config": row.config
    }


def spelled(name: str, value: float) -> str:
    """A figure for people: shares in percent."""
    return f"{100 * value:.1f} %" if name == "accuracy" or name.startswith("evaluation") else f"{value:.4g}"


def _pair(name: str, last: float, best: float) -> str:
    if last == best:
        return spelled(name, last)
    return f"{spelled(name, last)} ({'worst' if name == 'mismatch' else 'best'} {spelled(name, best)})"


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _duration(seconds: float) -> str:
    from mohist.train.progress import duration

    return duration(seconds)


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    return "\n".join(line.rstrip() for line in lines)
