"""Mohist beside llama.cpp, transformers and TRL, everything in one command.

    python -m bench                              # everything, with 1 and with 2 threads
    python -m bench decode prefill --threads 2
    python -m bench grpo --models 5M --works uniform,realistic

Every peer has a process of its own and they take turns, run by run. Figures are medians, ratios those of
medians; "from - to" is the spread over the rounds. Progress goes to standard error, Markdown to standard
output. The exit status is 1 when greedy answers differ beyond rounding; speeds that miss a goal are only
marked, since they depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from bench import (
    agreement,
    batch,
    contention,
    decode,
    draft,
    grpo,
    kquants,
    memory,
    mtp,
    prefill,
    serve,
    speculate,
    startup,
)
from bench.machine import Ticks, described, load_between
from bench.measure import progress
from bench.report import Report, as_json, markdown
from bench.workers import Crew, prepared_files

SPEEDS = {
    "decode": decode,
    "prefill": prefill,
    "batch": batch,
    "speculate": speculate,
    "draft": draft,
    "mtp": mtp,
}
"""Measured for every number of threads."""
COMMANDS = {"memory": memory, "startup": startup}
"""Measured on whole commands."""
NAMES = (*SPEEDS, "contention", *COMMANDS, "agreement", "serve", "kquants", "grpo", "exactness")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        choices=[*NAMES, "all"],
        default="all",
        metavar="NAME",
        help=", ".join((*NAMES, "all")),
    )
    parser.add_argument("--threads", type=counts, default=[1, 2], help="numbers of threads (default: 1,2)")
    parser.add_argument("--repeats", type=count, metavar="N", help="rounds; each benchmark has its default")
    parser.add_argument(
        "--models",
        type=words,
        default=grpo.MODELS,
        help="that grpo and exactness train (default: 5M,SmolLM2)",
    )
    parser.add_argument(
        "--works",
        type=words,
        default=grpo.WORKS,
        help="of grpo and exactness (default: uniform,realistic,sft)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measured value here")
    args = parser.parse_args(argv)
    names = set(NAMES) if "all" in args.names else set(args.names)
    machine = described()
    print("; ".join(f"{name} {value}" for name, value in machine.items()) + "\n")
    reports = []
    found = chain(
        measured(names - {"grpo", "exactness", "kquants"}, args.threads, args.repeats),
        k_quants(args.threads, args.repeats) if "kquants" in names else (),
        *(
            trained(contest, args.models, args.works, args.threads, args.repeats)
            for name, contest in (("grpo", grpo.run), ("exactness", grpo.exactness))
            if name in names
        ),
    )
    for report in found:
        print(markdown(report) + "\n", flush=True)
        reports.append(report)
    if args.json is not None:
        document = {"machine": machine, "reports": [as_json(report) for report in reports]}
        args.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return int(any(report.failed for report in reports))


def measured(names: set[str], threads: list[int], repeats: int | None) -> Iterator[Report]:
    """One report after the other."""
    if not names:
        return
    files = prepared_files()
    if "mtp" in names:
        files |= prepared_files("bench.mtp_files")
    for name, module in COMMANDS.items():
        if name in names:  # before any worker holds memory
            yield watched(name, partial(module.run, files, repeats or module.REPEATS))
    for num_threads in threads:
        with Crew(files) as crew:
            for name, module in SPEEDS.items():
                if name in names:
                    work = partial(module.run, crew, num_threads, repeats or module.REPEATS)
                    yield watched(f"{name}, threads: {num_threads}", work, crew)
    with Crew(files) as crew:
        if "contention" in names:
            yield watched("contention", partial(contention.run, crew, repeats or contention.REPEATS), crew)
    if "agreement" in names:
        yield watched("agreement", partial(agreement.run, files, max(threads)))
    if "serve" in names:
        for num_threads in threads:
            work = partial(serve.run, files, num_threads, repeats or serve.REPEATS)
            yield watched(f"serve, threads: {num_threads}", work)


def k_quants(threads: list[int], repeats: int | None) -> Iterator[Report]:
    """Memory and loading, then speed for every number of threads."""
    files = prepared_files("bench.k_files")
    yield watched("kquants, memory", partial(kquants.memory, files, repeats or 1))
    yield watched("kquants, startup", partial(kquants.startup, files, repeats or kquants.REPEATS))
    for num_threads in threads:
        with Crew(files) as crew:
            work = partial(kquants.run, crew, num_threads, repeats or kquants.REPEATS)
            yield watched(f"kquants, threads: {num_threads}", work, crew)


def trained(
    contest: Callable[[dict[str, str], str, str, int, int], Report],
    models: Sequence[str],
    works: Sequence[str],
    threads: list[int],
    repeats: int | None,
) -> Iterator[Report]:
    """A report for every model, work and number of threads."""
    folders = prepared_files("bench.rl_files")
    for model in models:
        for work in works:
            for num_threads in threads:
                name = f"{work}, {model}, threads: {num_threads}"
                steps = partial(contest, folders, model, work, num_threads, repeats or grpo.REPEATS)
                yield watched(name, steps)


def watched(name: str, work: Callable[[], Report], crew: Crew | None = None) -> Report:
    """The report, with a note about what else the machine did meanwhile."""
    now = crew.ticks if crew else Ticks.now
    progress(name)
    start = now()
    report = work()
    load = load_between(start, now())
    report.notes.append(str(load))
    report.data |= {"others": load.others, "stolen": load.stolen}
    return report


def count(text: str) -> int:
    """A positive integer."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def counts(text: str) -> list[int]:
    """Positive integers with commas between."""
    return [count(part) for part in text.split(",")]


def words(text: str) -> list[str]:
    """Names with commas between."""
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
