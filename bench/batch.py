"""32 requests at once with a shared prefix: useful new tokens per second over all of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bench.measure import Goal, Run, Series, alternate, ratio_goal
from bench.probes import MULTIPLY_ADDS, probed, range_of, share
from bench.report import Report, series_table
from bench.work import FORMATS, OWN_TOKENS, SEQUENCES, SHARED_TOKENS, batch_lengths, batch_prompts
from bench.workers import Crew, Worker, format_name

__all__ = ["REPEATS", "run"]

REPEATS = 2


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Mohist and llama.cpp in three formats, transformers in float32."""
    workers = [
        crew.worker(engine, format, threads) for engine in ("Mohist", "llama.cpp") for format in FORMATS
    ]
    workers.append(crew.worker("transformers", "f32", threads))
    machine = crew.worker("machine", "", threads)
    for worker in workers:  # a whole run to warm up would take minutes
        worker.call("batch", batch_prompts(-1), SHARED_TOKENS, [3] * SEQUENCES)
    runs: dict[str, Run] = {w.spec.name: partial(rate, w) for w in workers}
    contest = probed(runs, runs, MULTIPLY_ADDS, machine)
    series = alternate(contest, repeats, crew.ticks, warm_up=False, tries=2)
    lengths = batch_lengths()
    context = SHARED_TOKENS + OWN_TOKENS + sum(n * n for n in lengths) // (2 * sum(lengths))
    flops = workers[0].call("decode_flops", context)
    shares = {name: share(series, name, MULTIPLY_ADDS, flops) for name in runs}
    return Report(
        title=f"{SEQUENCES} requests at once, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table(
                "", (series[name] for name in runs), "new tokens/s", ("of the multiply-add rate", shares)
            )
        ],
        goals=goals(series),
        notes=[
            f"Prompts: {SHARED_TOKENS} shared and {OWN_TOKENS} own tokens. Answers: {min(lengths)} to "
            f"{max(lengths)} greedy tokens, {sum(lengths)} in all. The time of the prompts is included.",
            "llama.cpp: the prefix computed once and copied, sequences that are done leave the batch. "
            "transformers: one batch until the longest answer is there; only tokens asked for count.",
            f"Multiply-add rate: {range_of(series, MULTIPLY_ADDS)}, probed after every run, as in prefill; "
            "the operations of the prompts are not counted.",
        ],
        data=dict(series),
    )


def goals(speeds: Mapping[str, Series]) -> list[Goal]:
    """Format by format beside llama.cpp, best beside best, and beside transformers."""
    formats = [(f"Mohist {name}", f"llama.cpp {name}") for name in map(format_name, FORMATS)]
    our_best = max((ours for ours, _ in formats), key=lambda name: speeds[name].median)
    their_best = max((theirs for _, theirs in formats), key=lambda name: speeds[name].median)
    pairs = [(*pair, "") for pair in formats]
    pairs.append((our_best, their_best, ", best beside best"))
    pairs += [(ours, "transformers f32", "") for ours, _ in formats]
    return [
        ratio_goal(f"{ours} / {theirs}{what}", speeds[ours], speeds[theirs], 4.0)
        for ours, theirs, what in pairs
    ]


def rate(worker: Worker, seed: int) -> float:
    """New tokens per second of one run."""
    lengths = batch_lengths()
    return sum(lengths) / worker.call("batch", batch_prompts(seed), SHARED_TOKENS, lengths)
