"""A run as one page without a network: curves, before and after, answers to read, costs, config."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mohist.evaluate.compare import compare
from mohist.evaluate.evaluation import Evaluation, GradedAnswer, Result
from mohist.evaluate.tables import comparison_text
from mohist.train.charts import LEFT, RIGHT, WIDTH, Chart
from mohist.train.curves import charts
from mohist.train.logs import read_metrics
from mohist.train.progress import duration
from mohist.types import Problem
from mohist.weights.files import write_whole

__all__ = ["write_report"]

TEMPLATE = "report.html"
"""The page without its contents, in this module's folder."""
SHOWN_STEPS, SHOWN_PROBLEMS, SHOWN_ANSWERS, SHOWN_CHARACTERS = 12, 4, 8, 4000
"""Steps whose answers are on the page, problems of a step, answers to a problem, characters of a text."""
SHOWN_CHANGES = 3
"""Held-out problems shown of those that the model got better at, and worse at."""


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from what the run has logged so far. Raises RunError."""
    rows = read_metrics(folder)
    evaluations = _evaluations(folder / "evaluations", rows)
    drawn, constant = charts(rows)
    steps = _readable_steps(folder / "samples.jsonl")
    body = [
        _header(folder, rows, evaluations),
        _figures(drawn, constant),
        _before_and_after(evaluations),
        _reader(steps),
        _ledger(folder / "ledger.json"),
        _config(folder / "config.toml"),
    ]
    plot = [LEFT, WIDTH - RIGHT, WIDTH]
    data = {"plot": plot, "charts": [chart.data() for chart in drawn], "steps": steps}
    contents = {
        "title": escape(f"{folder.name} - Mohist"),
        "body": "\n".join(filter(None, body)),
        # A tag inside a text must not end the script element.
        "data": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    }
    template = files("mohist.train").joinpath(TEMPLATE).read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda match: contents[match[1]], template)
    path = folder / "report.html"
    with write_whole(path) as file:
        file.write(page.encode())
    return path


def _evaluations(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, list[Evaluation]]]:
    """The first and the last evaluation that the run logged, each as (step, ways of asking)."""
    steps = [row["step"] for row in rows if row.get("evaluation")]
    ends = [steps[0], steps[-1]] if len(steps) > 1 else steps
    found = []
    for step in ends:
        data = json.loads((folder / f"step-{step}.json").read_text(encoding="utf-8"))
        found.append((step, [Evaluation.from_json(one) for one in data]))
    return found


def _header(folder: Path, rows: Sequence[Mapping[str, Any]], evaluations: Sequence[Any]) -> str:
    steps = [row for row in rows if row["step"] > 0]
    tiles: list[tuple[str, str]] = []
    if evaluations:
        first, last = (evaluations[i][1][0] for i in (0, -1))
        tiles.append((_change(_percent(first.accuracy), _percent(last.accuracy)), f"accuracy, {last.title}"))
    if steps and "reward" in steps[0]:
        tenth = max(1, len(steps) // 10)
        ends = [_mean([row["reward"] for row in part]) for part in (steps[:tenth], steps[-tenth:])]
        tiles.append((_change(*(f"{end:.3f}" for end in ends)), "reward, first and last tenth"))
    mismatches = [row["mismatch"] for row in steps if "mismatch" in row]
    if mismatches:
        worst = max(mismatches)
        tiles.append((f"{worst:.3g}" if worst else "0.0", "largest mismatch of trainer and sampler"))
    if steps:
        tiles.append((f"{steps[-1]['step']:,}", "steps"))
        tiles.append((duration(sum(row["seconds"] for row in steps)), "of training, evaluations included"))
    cells = "".join(
        f'<div class="tile"><b class="number">{value}</b><span class="soft small">{label}</span></div>'
        for value, label in tiles
    )
    return f"""<header><h1>{escape(folder.name)}</h1><p class="soft">{escape(_what(folder))}</p></header>
<div class="tiles">{cells}</div>"""


def _what(folder: Path) -> str:
    """What the run does, from its config."""
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    model = f"{config['model']} learns" if "model" in config else ""
    if "task" not in config:
        return model
    asked = f"{config['problems_per_step']} problems with {config['group_size']} answers a step"
    how = f"{config['policy']['algorithm']}, {asked}, learning rate {config['optim']['lr']:g}"
    return f"{model} {config['task']['name']}: {how}"


def _change(first: str, last: str) -> str:
    return f"<i>{first} →</i> {last}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _figures(drawn: Sequence[Chart], constant: Sequence[tuple[str, str]]) -> str:
    """All charts, each with its latest values, and in a line what never changed."""
    shown = []
    for index, chart in enumerate(drawn):
        latest = "".join(
            f'<span class="key c{i}">{escape(line["label"]) if len(chart.lines) > 1 else ""} '
            f"{line['values'][-1]}</span>"
            for i, line in enumerate(chart.data()["lines"])
        )
        shown.append(
            f'<figure data-chart="{index}"><figcaption><b>{escape(chart.title)}</b>'
            f'<span class="now">{latest}</span></figcaption>'
            f'<div class="note">{escape(chart.note)}</div>{chart.svg()}</figure>'
        )
    flat = ", ".join(f"{title} {value}" for title, value in constant)
    rest = f'<p class="soft small">The same at every step: {escape(flat)}.</p>' if flat else ""
    return f'<h2>Curves</h2><div class="charts">{"".join(shown)}</div>{rest}' if shown else ""


def _before_and_after(evaluations: Sequence[tuple[int, list[Evaluation]]]) -> str:
    """The first and the last evaluation side by side, whether they differ, and problems that changed."""
    if len(evaluations) < 2:
        return ""
    (first_step, before), (last_step, after) = evaluations
    names = [
        (f"{one.title}, step {step}", one)
        for a, b in zip(before, after, strict=True)
        for step, one in ((first_step, a), (last_step, b))
    ]
    rows = [
        ("accuracy", [_percent(one.accuracy) for _, one in names]),
        ("95 % interval", [" – ".join(map(_percent, one.accuracy_interval)) for _, one in names]),
        *(
            (f"pass@{k}", [_percent(one.pass_at(k)[0]) if k in one.ks else "" for _, one in names])
            for k in sorted({k for _, one in names for k in one.ks})
        ),
        ("tokens, mean", [f"{one.summary['tokens']:.1f}" for _, one in names]),
        ("cut off", [_percent(one.summary["truncated"]) for _, one in names]),
        ("problems", [f"{len(one.results)}" for _, one in names]),
    ]
    comparisons = [
        compare(replace(b, model=f"step {last_step}"), replace(a, model=f"step {first_step}"))
        for a, b in zip(before, after, strict=True)
    ]
    sentences = "".join(f'<p class="soft">{escape(comparison_text(one))}</p>' for one in comparisons)
    changed = comparisons[0]
    cards = "".join(
        _pair(ours, theirs, (first_step, last_step))
        for ours, theirs in (*changed.better[:SHOWN_CHANGES], *changed.worse[:SHOWN_CHANGES])
    )
    examples = f"<h2>Problems that changed</h2>{cards}" if cards else ""
    return f"<h2>Before and after</h2>{_table(['', *(name for name, _ in names)], rows)}{sentences}{examples}"


def _pair(after: Result, before: Result, steps: tuple[int, int]) -> str:
    """One problem with the answers of two models to it."""
    cells = "".join(
        _answer(result.answers[0], f"step {step}") for result, step in ((before, steps[0]), (after, steps[1]))
    )
    return (
        f'<article class="card"><header><p>{escape(_short(after.problem.question))}</p>'
        f'<div class="soft small">{escape(_name(after.problem))}</div></header>'
        f'<div class="pair">{cells}</div></article>'
    )


def _name(problem: Problem) -> str:
    """The problem's id, where it says more than the question."""
    return "" if problem.id == problem.question else problem.id


def _answer(answer: GradedAnswer, title: str) -> str:
    kind = "right" if answer.right else "partly" if answer.accuracy > 0 else "wrong"
    thinking = (
        f'<div class="text thinking">{escape(_short(answer.reasoning))}</div>' if answer.reasoning else ""
    )
    note = f" · {escape(answer.note)}" if answer.note else ""
    return (
        f'<div class="answer {kind}"><div class="facts">{title} · <b>{kind}</b> · '
        f"{answer.num_tokens} tokens{note}</div>{thinking}"
        f'<div class="text">{escape(_short(answer.content)) or "(nothing)"}</div></div>'
    )


def _reader(steps: Sequence[Mapping[str, Any]]) -> str:
    """Where the page's script shows answers, and its buttons."""
    if not steps:
        return ""
    numbers = "".join(f'<button data-step="{entry["step"]}">{entry["step"]}</button>' for entry in steps)
    kinds = "".join(f'<button data-show="{kind}">{kind}</button>' for kind in ("all", "right", "wrong"))
    return (
        f'<h2>Answers</h2><div class="bar"><span>step</span>{numbers}<span>show</span>{kinds}</div>'
        f'<div id="rollouts"></div><p class="soft small">A choice of steps and problems; all are in '
        f"samples.jsonl.</p>"
    )


def _readable_steps(path: Path) -> list[dict[str, Any]]:
    """Some steps of samples.jsonl, from the first to the last, as the page's script reads them."""
    if not path.exists():
        return []
    steps = list(dict.fromkeys(step for step, _ in _lines(path)))
    count = min(len(steps), SHOWN_STEPS)
    chosen = {steps[i * (len(steps) - 1) // max(count - 1, 1)] for i in range(count)}
    rows: dict[int, list[dict[str, Any]]] = {step: [] for step in sorted(chosen)}
    for step, line in _lines(path):
        if step in rows:
            rows[step].append(json.loads(line))
    return [{"step": step, "groups": _readable_groups(found)} for step, found in rows.items()]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Whole lines of samples.jsonl with their steps, which are read without parsing the rest."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield int(line[len('{"step": ') : line.index(",")]), line


def _readable_groups(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups with right and wrong answers first, then the others."""
    groups: list[list[Mapping[str, Any]]] = []
    for row in rows:
        if row["sample"] == 0:
            groups.append([])
        groups[-1].append(row)
    groups.sort(key=lambda group: len({row["accuracy"] for row in group}) == 1)
    return [
        {
            "problem": group[0]["problem"],
            "question": _short(group[0]["question"]),
            "size": len(group),
            "right": sum(row["accuracy"] >= 1 for row in group),
            "answers": [_readable(row, count) for row, count in _mixed(group)],
        }
        for group in groups[:SHOWN_PROBLEMS]
    ]


def _mixed(group: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], int]]:
    """At most `SHOWN_ANSWERS` answers of a group, as evenly right and wrong as it allows.

    Equal answers are one, with their number.
    """
    texts = [(row["reasoning"], row["content"]) for row in group]
    different = dict(zip(reversed(texts), reversed(group), strict=True))
    rows = sorted(different.values(), key=lambda row: row["sample"])
    right = [row for row in rows if row["accuracy"] >= 1]
    wrong = [row for row in rows if row["accuracy"] < 1]
    num_right = min(len(right), max(SHOWN_ANSWERS // 2, SHOWN_ANSWERS - len(wrong)))
    kept = [*right[:num_right], *wrong[: SHOWN_ANSWERS - num_right]]
    return [(row, texts.count((row["reasoning"], row["content"]))) for row in kept]


def _readable(row: Mapping[str, Any], count: int) -> dict[str, Any]:
    advantage = row["advantage"]
    return {
        "count": count,
        "content": _short(row["content"]),
        "reasoning": _short(row["reasoning"] or ""),
        "accuracy": row["accuracy"],
        "reward": f"{row['reward']:.4g}",
        "advantage": None if advantage is None else f"{advantage:+.2f}",
        "tokens": row["num_tokens"],
        "cut": row["finish_reason"] == "length",
        "note": row["note"],
    }


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


def _ledger(path: Path) -> str:
    """What the run has cost."""
    if not path.exists():
        return ""
    entries: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    has_money = any(entry.get("money") for entry in entries.values())
    header = ["", "time", "tokens in", "of them cached", "tokens out", "TFLOP", "peak memory"]
    rows = []
    for name, entry in entries.items():
        cells = [
            duration(entry["seconds"]),
            f"{entry['prompt_tokens']:,}",
            f"{entry['cached_tokens']:,}",
            f"{entry['completion_tokens']:,}",
            f"{entry['flops'] / 1e12:,.3g}",
            f"{entry['peak_bytes'] / 2**20:,.0f} MiB",
        ]
        cells += [f"{entry['money']:.3g} {entry['currency']}"] if has_money else []
        rows.append((name, cells))
    return f"<h2>Costs</h2>{_table([*header, *(['money'] if has_money else [])], rows)}"


def _config(path: Path) -> str:
    if not path.exists():
        return ""
    text = escape(path.read_text(encoding="utf-8"))
    return f"<h2>Config</h2><details open><summary>config.toml</summary><pre>{text}</pre></details>"


def _table(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Names to the left, figures to the right."""
    head = "".join(f'<th class="{"n" if i else ""}">{escape(cell)}</th>' for i, cell in enumerate(header))
    body = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
