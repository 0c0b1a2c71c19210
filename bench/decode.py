"""One stream: new tokens per second after a prompt of 16, and how much of the memory bandwidth that is."""

from __future__ import annotations

from functools import partial

from bench.measure import Run, alternate, ratio_goal
from bench.probes import MEMORY, probed, range_of, share
from bench.report import Report, series_table
from bench.work import DECODE_TOKENS, FORMATS, PROMPT_TOKENS, fresh_tokens
from bench.workers import Crew, Worker

__all__ = ["REPEATS", "run"]

REPEATS = 5


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Mohist in its formats, llama.cpp in its three, transformers in float32."""
    ours = [crew.worker("Mohist", format, threads) for format in (*FORMATS, "bf16")]
    theirs = [crew.worker("llama.cpp", format, threads) for format in FORMATS]
    theirs.append(crew.worker("transformers", "f32", threads))
    machine = crew.worker("machine", "", threads)
    workers = (*ours, *theirs)
    runs: dict[str, Run] = {w.spec.name: partial(rate, w) for w in workers}
    series = alternate(probed(runs, (w.spec.name for w in ours), MEMORY, machine), repeats, crew.ticks)
    num_bytes = {w.spec.name: w.call("decode_bytes", PROMPT_TOKENS + DECODE_TOKENS // 2) for w in ours}
    shares = {name: share(series, name, MEMORY, count) for name, count in num_bytes.items()}
    return Report(
        title=f"Decode, one stream, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table("", (series[name] for name in runs), "tokens/s", ("of the memory bandwidth", shares))
        ],
        goals=[
            ratio_goal("Q4_1: Mohist / llama.cpp", series["Mohist Q4_1"], series["llama.cpp Q4_1"], 1.5),
            ratio_goal("Q8_0: Mohist / llama.cpp", series["Mohist Q8_0"], series["llama.cpp Q8_0"], 1.5),
            ratio_goal("f32: Mohist / transformers", series["Mohist f32"], series["transformers f32"], 3.0),
        ],
        notes=[
            f"{DECODE_TOKENS} greedy tokens after a prompt of {PROMPT_TOKENS}, the first one not counted.",
            f"Memory bandwidth: {range_of(series, MEMORY)}, probed after every run of ours: PyTorch with as "
            "many threads reads 256 MiB of float32 in a sum, a dot product or a product with a vector, "
            "whichever is fastest. A token reads every matrix once (the embedding is also the output head), "
            "and the keys and values of its context.",
        ],
        data=dict(series),
    )


def rate(worker: Worker, seed: int) -> float:
    """Tokens per second of one run."""
    return DECODE_TOKENS / worker.call("decode", fresh_tokens(PROMPT_TOKENS, seed), DECODE_TOKENS)
