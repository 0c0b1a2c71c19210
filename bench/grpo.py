"""Training beside TRL: seconds a step of GRPOTrainer, and of SFTTrainer; in float32, every weight trained.

`exactness` lets the same trainer run beside itself on PyTorch's kernels, where nothing is exact.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from bench.machine import Ticks
from bench.measure import Goal, Series, alternate, ratio_goal
from bench.report import Report, number, series_table
from bench.rl_work import GROUP_SIZE, PROBLEMS, SFT_SAMPLES, SFT_TOKENS, WORKLOADS, lengths
from bench.workers import Spec, Worker

__all__ = ["MODELS", "REPEATS", "WORKS", "exactness", "goals", "run"]

REPEATS = 3
MODELS = ("5M", "SmolLM2")
WORKS = (*WORKLOADS, "sft")
SFT_GOAL = 1.5
EXACTNESS_GOAL = 0.9
"""A step is to keep at least this share of its speed when it is exact."""
OURS, THEIRS, INEXACT = "Mohist", "TRL", "inexact Mohist"

Parts = dict[str, list[dict[str, float]]]
"""By trainer, of every step: seconds of "all", "generation" and "training"."""


def run(folders: dict[str, str], model: str, work: str, threads: int, repeats: int) -> Report:
    """Steps of Mohist's trainer and TRL's in turn, each in a process of its own."""
    series, parts, peaks = _contest((OURS, THEIRS), folders, model, work, threads, repeats)
    return Report(
        title=_title(model, work, threads),
        tables=[_table(work, series, parts, peaks)],
        goals=goals(work, series, peaks),
        notes=[_described(work)],
        data={**series, "parts": parts, "peaks": peaks},
    )


def exactness(folders: dict[str, str], model: str, work: str, threads: int, repeats: int) -> Report:
    """What exactness costs: the same trainer on the exact kernels and on PyTorch's, in turn."""
    series, parts, peaks = _contest((OURS, INEXACT), folders, model, work, threads, repeats)
    return Report(
        title=f"What exactness costs: {_title(model, work, threads)}",
        tables=[_table(work, series, parts, peaks)],
        goals=[_speed_goal(series, INEXACT, EXACTNESS_GOAL)],
        notes=[_described(work), f"{INEXACT} is the same trainer and engine on PyTorch's kernels."],
        data={**series, "parts": parts, "peaks": peaks},
    )


def _contest(
    names: tuple[str, str], folders: dict[str, str], model: str, work: str, threads: int, repeats: int
) -> tuple[dict[str, Series], Parts, dict[str, int]]:
    """Seconds a step of both, what they went into, and bytes of memory at most."""
    workers = {name: Worker(Spec(f"{name} trainer", f"{model} {work}", threads), folders) for name in names}
    parts: Parts = {name: [] for name in workers}
    try:
        series = alternate(
            {name: partial(_step, worker, parts[name]) for name, worker in workers.items()},
            repeats,
            lambda: Ticks.now(*(worker.pid for worker in workers.values())),
            tries=1,
        )
        peaks = {name: worker.call("peak_bytes") for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return series, {name: steps[-repeats:] for name, steps in parts.items()}, peaks


def goals(work: str, series: dict[str, Series], peaks: dict[str, int]) -> list[Goal]:
    """How fast a step is to be beside TRL's, and that it takes no more memory."""
    wanted = SFT_GOAL if work == "sft" else WORKLOADS[work].goal
    memory = peaks[OURS] / peaks[THEIRS]
    return [
        _speed_goal(series, THEIRS, wanted),
        Goal(f"{OURS} / {THEIRS}, peak memory", memory, memory, memory, 1, "<=", "x"),
    ]


def _title(model: str, work: str, threads: int) -> str:
    kind = "SFT" if work == "sft" else f"GRPO, {work}"
    return f"{kind}, {model}, {threads} thread{'s' * (threads > 1)}"


def _speed_goal(series: dict[str, Series], theirs: str, wanted: float) -> Goal:
    rates = {name: Series(name, tuple(1 / seconds for seconds in one.values)) for name, one in series.items()}
    return ratio_goal(f"{OURS} / {theirs}, steps a second", rates[OURS], rates[theirs], wanted)


def _step(worker: Worker, parts: list[dict[str, float]], seed: int) -> float:
    parts.append(worker.call("step"))
    return parts[-1]["all"]


def _tokens(work: str) -> int:
    """What a step samples, or learns from."""
    return SFT_SAMPLES * SFT_TOKENS if work == "sft" else sum(lengths(WORKLOADS[work], 0))


def _table(work: str, series: dict[str, Series], parts: Parts, peaks: dict[str, int]) -> str:
    """Seconds a step, what they went into, tokens a second, and memory."""
    columns: list[tuple[str, dict[str, str]]] = []
    for key in ("generation", "training") if work != "sft" else ():
        medians = {name: median(step[key] for step in steps) for name, steps in parts.items()}
        columns.append((key, {name: number(value) for name, value in medians.items()}))
    rates = {name: number(_tokens(work) / one.median) for name, one in series.items()}
    columns.append(("tokens/s", rates))
    columns.append(("peak MiB", {name: number(peak / 2**20) for name, peak in peaks.items()}))
    return series_table("", series.values(), "s a step", *columns)


def _described(work: str) -> str:
    counted = "AdamW, float32. The first step does not count."
    if work == "sft":
        return f"{SFT_SAMPLES} samples of {SFT_TOKENS} tokens a step, {counted}"
    one = WORKLOADS[work]
    found = sorted(lengths(one, 0))
    silent = f"every {one.silent}rd group without signal" if one.silent else "every group with a signal"
    return (
        f"{PROBLEMS} prompts of {one.prompt} tokens with {GROUP_SIZE} answers each, of {found[0]} to "
        f"{found[-1]} tokens, {_tokens(work)} in all; {silent}; one update a step, no KL term, {counted} "
        "Generation includes grading, training includes packing and the update."
    )
