"""Evaluations as text for people: a table of figures, a comparison in a sentence, answers to read."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mohist.evaluate.compare import Comparison
from mohist.evaluate.evaluation import Evaluation, GradedAnswer, Result
from mohist.evaluate.statistics import Interval

__all__ = ["comparison_text", "drill_down", "summary_table"]

WIDTH = 100
"""Columns of text."""
MOST_CHARACTERS = 600
"""Of an answer that is shown."""


def summary_table(evaluations: Sequence[Evaluation], headers: Sequence[str] | None = None) -> str:
    """A column for each evaluation, headed by its title unless `headers` says otherwise."""
    rows: list[list[str]] = [["", *(headers or [one.title for one in evaluations])]]
    rows.append(["accuracy", *(_percent(one.accuracy) for one in evaluations)])
    rows.append(["  95 % interval", *(_interval(one.accuracy_interval) for one in evaluations)])
    for k in sorted({k for one in evaluations for k in one.ks}):
        rows.append(
            [f"pass@{k}", *(_percent(one.pass_at(k)[0]) if k in one.ks else "" for one in evaluations)]
        )
    for name in dict.fromkeys(name for one in evaluations for name in one.parts if name != "accuracy"):
        rows.append([name, *(_percent(one.parts[name]) if name in one.parts else "" for one in evaluations)])
    summaries = [one.summary for one in evaluations]
    rows.append(["reward", *(f"{each['reward']:.3f}" for each in summaries)])
    rows.append(["tokens, mean", *(f"{each['tokens']:.1f}" for each in summaries)])
    rows.append(["tokens, 95th percentile", *(f"{each['tokens_95th']}" for each in summaries)])
    rows.append(["cut off", *(_percent(each["truncated"]) for each in summaries)])
    rows.append(["problems", *(f"{each['problems']}" for each in summaries)])
    return _aligned(rows)


def comparison_text(comparison: Comparison) -> str:
    """The difference, its interval and how likely chance alone explains it."""
    ours, theirs = comparison.ours, comparison.theirs
    low, high = comparison.interval
    equal = len(ours.results) - len(comparison.better) - len(comparison.worse)
    return (
        f"{ours.title}: {ours.model} {_percent(ours.accuracy)}, {theirs.model} {_percent(theirs.accuracy)}. "
        f"Difference {100 * comparison.difference:+.1f} points "
        f"(95 %: {100 * low:+.1f} to {100 * high:+.1f}). "
        f"Better on {len(comparison.better)} problems, worse on {len(comparison.worse)}, "
        f"equal on {equal}; p = {comparison.p_value:.2g}."
    )


def drill_down(evaluation: Evaluation, count: int) -> str:
    """The `count` problems with the lowest accuracy, those asked first first, each with its worst answer."""
    worst = sorted(evaluation.results, key=lambda result: result.accuracy)[:count]
    return "\n\n".join(map(_readable, worst))


def _readable(result: Result) -> str:
    answer = min(result.answers, key=lambda answer: answer.accuracy)
    right = f"{result.num_right} of {len(result.answers)} right"
    parts = ", ".join(f"{name} {value:g}" for name, value in answer.parts.items())
    lines = [
        f"{result.problem.id}: {right}",
        _block("question", result.problem.question),
        _block("expected", str(result.problem.answer)),
        *([_block("thinking", answer.reasoning)] if answer.reasoning else []),
        _block("answer", answer.content + cut_off(answer)),
        _block("grade", f"reward {answer.reward:g}; {parts}" + (f"; {answer.note}" if answer.note else "")),
    ]
    return "\n".join(lines)


def cut_off(answer: GradedAnswer) -> str:
    """A mark behind an answer that reached the token limit."""
    return " [cut off]" if answer.finish_reason == "length" else ""


def _block(name: str, text: str) -> str:
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
    lines = [part for line in shown.splitlines() for part in textwrap.wrap(line, WIDTH - 12) or [""]]
    return "\n".join(f"  {name if i == 0 else '':10}{line}" for i, line in enumerate(lines or [""]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} - {100 * interval.high:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be, the first one to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)
