"""Which metrics of a run are drawn, in which chart, and what a reader should know about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mohist.train.charts import Chart, Line, Unit, written

__all__ = ["charts"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Metrics that share a chart, by the label of their line."""

    title: str
    note: str
    metrics: Mapping[str, str]
    unit: Unit = "number"


CURVES = (
    Curve(title="Reward", note="Mean over the answers of a step.", metrics={"reward": "reward"}),
    Curve(
        title="Parts of the grade",
        note="Accuracy is what evaluation counts.",
        metrics={"accuracy": "accuracy", "format": "format", "language": "language"},
        unit="percent",
    ),
    Curve(title="Length", note="Tokens of an answer, mean.", metrics={"length": "length"}),
    Curve(
        title="Cut off",
        note="Answers that reached the token limit.",
        metrics={"truncated": "cut off"},
        unit="percent",
    ),
    Curve(
        title="Entropy",
        note="Nats a token, estimated from the sampled tokens. Near 0 nothing new is tried.",
        metrics={"entropy": "entropy"},
    ),
    Curve(title="KL", note="From the reference policy (k3), nats a token.", metrics={"kl": "KL"}),
    Curve(
        title="Mismatch",
        note="Largest |logprob of the trainer - of the sampler| of a step. 0: on policy to the last bit.",
        metrics={"mismatch": "mismatch"},
        unit="power",
    ),
    Curve(
        title="Importance",
        note="Mean correction of a token's loss for the sampler's mismatch; 1 is none.",
        metrics={"importance": "importance"},
    ),
    Curve(
        title="Groups without signal",
        note="All answers worth the same: nothing to learn, and nothing spent on it.",
        metrics={"silent": "without signal"},
        unit="percent",
    ),
    Curve(
        title="Clipped", note="Tokens whose ratio is clipped.", metrics={"clipped": "clipped"}, unit="percent"
    ),
    Curve(title="Loss", note="", metrics={"loss": "loss", "held_out_loss": "held out"}),
    Curve(title="Gradient norm", note="Before clipping.", metrics={"grad_norm": "norm"}),
    Curve(title="Learning rate", note="", metrics={"lr": "rate"}),
    Curve(
        title="Expert load",
        note="Rows of the fullest expert over the mean, less 1 (MaxVio).",
        metrics={"expert_overload": "overload"},
    ),
    Curve(
        title="Tokens a second",
        note="Sampled, and learnt from.",
        metrics={"rollout_tokens_per_s": "sampling", "train_tokens_per_s": "training"},
    ),
    Curve(
        title="Seconds a step",
        note="What the time went into.",
        metrics={"seconds": "all", "rollout_s": "sampling", "train_s": "training"},
    ),
)


def charts(rows: Sequence[Mapping[str, Any]]) -> tuple[list[Chart], list[tuple[str, str]]]:
    """The charts of a run that logged `rows`, as far as it has their metrics; evaluations first.

    A metric that never changed, other than the mismatch, is no chart but (title, value).
    """
    found = [_evaluations(rows)] if any(row.get("evaluation") for row in rows) else []
    constant: list[tuple[str, str]] = []
    for curve in CURVES:
        lines = [_line(rows, metric, label) for metric, label in curve.metrics.items()]
        kept = [line for line in lines if line.steps]
        values = {value for line in kept for value in line.values}
        if len(values) == 1 and sum(len(line.steps) for line in kept) > 1 and curve.unit != "power":
            constant.append((curve.title.lower(), written(values.pop(), curve.unit)))
        elif kept:
            found.append(Chart(title=curve.title, note=curve.note, lines=kept, unit=curve.unit))
    return found, constant


def _line(rows: Sequence[Mapping[str, Any]], metric: str, label: str) -> Line:
    points = [(row["step"], row[metric]) for row in rows if metric in row]
    return Line(label=label, steps=[step for step, _ in points], values=[value for _, value in points])


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Accuracy in every evaluation, with its interval: a line for each way of asking."""
    lines = []
    for title in dict.fromkeys(title for row in rows for title in row.get("evaluation", ())):
        points = [
            (row["step"], row["evaluation"][title]) for row in rows if title in row.get("evaluation", ())
        ]
        lines.append(
            Line(
                label=title,
                steps=[step for step, _ in points],
                values=[found["accuracy"] for _, found in points],
                low=[found["accuracy_interval"][0] for _, found in points],
                high=[found["accuracy_interval"][1] for _, found in points],
                is_dotted=True,
            )
        )
    note = "On the problems of [evaluation], with 95 % intervals."
    return Chart(title="Evaluation", note=note, lines=lines, unit="percent")
