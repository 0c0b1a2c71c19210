"""A prompt of 512 tokens: prompt tokens per second, and how much of the multiply-add rate that is."""

from __future__ import annotations

from functools import partial

from bench.measure import Run, alternate, ratio_goal
from bench.probes import MULTIPLY_ADDS, probed, range_of, share
from bench.report import Report, series_table
from bench.work import FORMATS, PREFILL_TOKENS, fresh_tokens
from bench.workers import Crew, Worker

__all__ = ["REPEATS", "run"]

REPEATS = 5


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Mohist in its formats, llama.cpp in its three, transformers in float32."""
    ours = [crew.worker("Mohist", format, threads) for format in (*FORMATS, "bf16")]
    peers = [crew.worker("llama.cpp", format, threads) for format in FORMATS]
    others = [crew.worker("transformers", "f32", threads)]
    machine = crew.worker("machine", "", threads)
    runs: dict[str, Run] = {w.spec.name: partial(rate, w) for w in (*ours, *peers, *others)}
    series = alternate(probed(runs, runs, MULTIPLY_ADDS, machine), repeats, crew.ticks)
    flops = ours[0].call("prefill_flops", PREFILL_TOKENS) / PREFILL_TOKENS
    shares = {name: share(series, name, MULTIPLY_ADDS, flops) for name in runs}
    their_best = max((series[w.spec.name] for w in peers), key=lambda one: one.median)
    return Report(
        title=f"Prefill of {PREFILL_TOKENS} tokens, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table(
                "", (series[name] for name in runs), "tokens/s", ("of the multiply-add rate", shares)
            )
        ],
        goals=[
            ratio_goal(f"{name} / {their_best.name}, llama.cpp's best", series[name], their_best, 1.5)
            for name in (w.spec.name for w in ours)
        ],
        notes=[
            f"Multiply-add rate: {range_of(series, MULTIPLY_ADDS)}, probed after every run: PyTorch's "
            "fastest square float32 matrix product (512 to 1536), so a lower bound of what the machine can "
            "do in float32. Integer products of quantised weights are counted alike.",
        ],
        data=dict(series),
    )


def rate(worker: Worker, seed: int) -> float:
    """Prompt tokens per second of one run."""
    return PREFILL_TOKENS / worker.call("prefill", fresh_tokens(PREFILL_TOKENS, seed))
