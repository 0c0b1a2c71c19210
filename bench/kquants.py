"""K-quants beside the same model in float32, which is what they were turned into, and beside llama.cpp.

A Llama with random weights (see `bench.k_files`); what it says does not matter here.
"""

from __future__ import annotations

from functools import partial

from bench import decode, prefill
from bench.commands import IMPORT_TORCH, generate, outcome
from bench.machine import Ticks
from bench.measure import Run, alternate, ratio_goal
from bench.probes import MEMORY, probed, range_of, share
from bench.report import Report, number, series_table
from bench.work import DECODE_TOKENS, PREFILL_TOKENS, PROMPT_TOKENS
from bench.workers import AS_F32, Crew, format_name

__all__ = ["FORMATS", "REPEATS", "STORED", "memory", "run", "startup"]

FORMATS = ("q4_k_m", "q5_k_m", "q6_k")
"""What llama.cpp is asked for: the first two mix formats."""
STORED = ("q8_0", *FORMATS)
"""Every quantised file: what takes Q8_0's blocks apart is known to be cheap."""
REPEATS, TRIES = 3, 2
"""Fewer than elsewhere: prompts take llama.cpp seconds, and all of it is to take minutes."""
NEW_TOKENS = 40


def run(crew: Crew, threads: int, repeats: int) -> Report:
    """Decode and prefill."""
    ours = [crew.worker("Mohist", format, threads) for format in (*FORMATS, "f32")]
    workers = (*ours, *(crew.worker("llama.cpp", format, threads) for format in FORMATS))
    machine = crew.worker("machine", "", threads)
    decodes: dict[str, Run] = {w.spec.name: partial(decode.rate, w) for w in workers}
    prefills: dict[str, Run] = {w.spec.name: partial(prefill.rate, w) for w in workers}
    probed_decodes = probed(decodes, (w.spec.name for w in ours), MEMORY, machine)
    found = alternate(probed_decodes, repeats, crew.ticks, tries=TRIES)
    found_prefill = alternate(prefills, repeats, crew.ticks, tries=TRIES)
    num_bytes = {w.spec.name: w.call("decode_bytes", PROMPT_TOKENS + DECODE_TOKENS // 2) for w in ours}
    shares = {name: share(found, name, MEMORY, count) for name, count in num_bytes.items()}
    read = {name: f"{count / 1e6:,.0f}" for name, count in num_bytes.items()}
    columns = ("MB read a token", read), ("of the memory bandwidth", shares)
    return Report(
        title=f"K-quants, {threads} thread{'s' * (threads > 1)}",
        tables=[
            series_table("decode", (found[name] for name in decodes), "tokens/s", *columns),
            series_table("prefill", (found_prefill[name] for name in prefills), "tokens/s"),
        ],
        goals=[
            ratio_goal(
                f"{what} {format_name(format)}: Mohist / {peer} {format_name(against)}",
                series[f"Mohist {format_name(format)}"],
                series[f"{peer} {format_name(against)}"],
                1.0,
            )
            for what, series in (("decode", found), ("prefill", found_prefill))
            for format in FORMATS
            for peer, against in (("llama.cpp", format), ("Mohist", "f32"))
        ],
        notes=[
            f"{DECODE_TOKENS} greedy tokens after a prompt of {PROMPT_TOKENS}; a prompt of {PREFILL_TOKENS}. "
            f"Memory bandwidth: {range_of(found, MEMORY)}.",
        ],
        data={f"decode {name}": one for name, one in found.items()}
        | {f"prefill {name}": one for name, one in found_prefill.items()},
    )


def memory(files: dict[str, str], repeats: int) -> Report:
    """Peak memory of an answer: as stored, and dequantised."""
    runs: dict[str, Run] = {}
    for format in FORMATS:
        command = generate(files[format], NEW_TOKENS)
        runs[format_name(format)] = partial(peak, command)
        runs[format_name(format + AS_F32)] = partial(peak, [*command, "--quantize", "f32"])
    series = alternate(runs, repeats, Ticks.now, warm_up=False, tries=1)
    return Report(
        title="K-quants, peak memory of one answer",
        tables=[series_table("", series.values(), "MB")],
        data=dict(series),
    )


def startup(files: dict[str, str], repeats: int) -> Report:
    """From the command to the first token, most of which is loading."""
    runs: dict[str, Run] = {"import torch": partial(first_output, IMPORT_TORCH)}
    runs |= {format_name(format): partial(first_output, generate(files[format], 1)) for format in STORED}
    found = alternate(runs, repeats, Ticks.now, tries=1)
    torch = found["import torch"]
    beyond = {name: number(one.minus(torch, name).median) for name, one in found.items() if one is not torch}
    return Report(
        title="K-quants, from the command to the first token",
        tables=[series_table("", found.values(), "s", ("beyond import torch", beyond))],
        data=dict(found),
    )


def first_output(command: list[str], seed: int) -> float:
    """Seconds until a command writes something."""
    return outcome(command).first_output_s


def peak(command: list[str], seed: int) -> float:
    """The highest resident memory of a command, in MB of 10^6 bytes."""
    return outcome(command).peak_bytes / 1e6
