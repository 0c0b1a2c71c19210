"""What the machine could have done at the moment of a run: a probe follows every run that is held against it.

On a shared machine the rates of memory and of the multiply-add units change from minute to minute, so a
share of them is taken run by run, and the median of the shares is said.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from functools import partial

from bench.measure import Run, Series
from bench.report import number
from bench.workers import Worker

__all__ = ["MEMORY", "MULTIPLY_ADDS", "probed", "range_of", "share"]

MEMORY, MULTIPLY_ADDS = "read_bytes_per_s", "flops_per_s"
"""Probes: methods of `bench.machine.Machine`."""
_NAMES = {MEMORY: "memory, GB/s, beside {}", MULTIPLY_ADDS: "multiply-adds, GFLOP/s, beside {}"}


def probed(runs: Mapping[str, Run], names: Iterable[str], kind: str, machine: Worker) -> dict[str, Run]:
    """The runs, those of `names` each followed by a probe."""
    wanted, result = set(names), {}
    for name, run in runs.items():
        result[name] = run
        if name in wanted:
            result[_NAMES[kind].format(name)] = partial(_probe, machine, kind)
    return result


def share(series: Mapping[str, Series], name: str, kind: str, per_token: float) -> str:
    """Tokens per second times bytes or operations a token, over what the probes measured."""
    probes = series[_NAMES[kind].format(name)]
    shares = [
        speed * per_token / 1e9 / probe
        for speed, probe in zip(series[name].values, probes.values, strict=True)
    ]
    return f"{statistics.median(shares):.0%}"


def range_of(series: Mapping[str, Series], kind: str) -> str:
    """The smallest and largest figure of all probes."""
    start = _NAMES[kind].format("")
    values = [value for name, one in series.items() if name.startswith(start) for value in one.values]
    return f"{number(min(values))} to {number(max(values))} {'GB/s' if kind == MEMORY else 'GFLOP/s'}"


def _probe(machine: Worker, kind: str, seed: int) -> float:
    """Billions a second; the seed has nothing to decide."""
    return machine.call(kind) / 1e9
