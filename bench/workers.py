"""A process for each peer, driven through a pipe. One that waits sleeps in a read: it costs no core."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from bench.machine import Ticks
from bench.measure import progress
from bench.rl_work import WORKLOADS

__all__ = ["AS_F32", "Crew", "Spec", "Worker", "format_name", "prepared_files"]

REST_S = 0.1
"""Pause before every run, in which the last one's threads find that there is nothing more to do."""
AS_F32 = " as f32"
"""After a format: the file's values, dequantised when it is loaded."""


def format_name(format: str) -> str:
    """A format as people write it: Q4_1, f32, Q4_K_M as f32."""
    return re.sub(r"\bq\d\w*", lambda found: found[0].upper(), format)


@dataclass(frozen=True, slots=True)
class Spec:
    """A peer: the engine ("Mohist", "Mohist lookup", "llama.cpp", ...), a format, its threads."""

    engine: str
    format: str
    threads: int

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.engine} {format_name(self.format)}".strip()


class Worker:
    """A process that has loaded one peer."""

    def __init__(self, spec: Spec, files: dict[str, str]) -> None:
        context = get_context("spawn")
        self.spec = spec
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(spec, files, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    def call(self, method: str, *args: Any) -> Any:
        """What the peer's method returns. A peer that fails says why on standard error and ends the run."""
        time.sleep(REST_S)
        self._pipe.send((method, args))
        try:
            return self._pipe.recv()
        except EOFError:
            raise SystemExit(f"bench: {self.spec.name} failed in {method}, see above") from None

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()


class Crew:
    """The workers of a run, started when first asked for."""

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._workers: dict[Spec, Worker] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def has(self, format: str) -> bool:
        """Whether there are such weights."""
        return format in self._files

    def worker(self, engine: str, format: str, threads: int) -> Worker:
        """The process of a peer."""
        spec = Spec(engine, format, threads)
        if spec not in self._workers:
            progress(f"  loading {spec.name}, {threads} thread{'s' * (threads > 1)}")
            self._workers[spec] = Worker(spec, self._files)
            self._workers[spec].call("__class__")
        return self._workers[spec]

    def ticks(self, *more_pids: int) -> Ticks:
        """Processor time so far, that of the workers (and of `more_pids`) as our own."""
        return Ticks.now(*more_pids, *(worker.pid for worker in self._workers.values()))


def serve(spec: Spec, files: dict[str, str], pipe: Connection) -> None:
    """Load a peer and do what is asked until the other end is closed."""
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)  # read when PyTorch and llama.cpp are imported
    peer = load(spec, files)
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        pipe.send(None if method == "__class__" else getattr(peer, method)(*args))


def load(spec: Spec, files: dict[str, str]) -> Any:
    """The peer, in this process."""
    if spec.engine.endswith(" trainer"):
        return trainer(spec, files)
    if spec.engine == "machine":
        from bench.machine import Machine

        return Machine(spec.threads)
    from bench.peers import LlamaCpp, Mohist, Transformers

    if spec.engine.startswith("Mohist"):
        how, colon, draft = spec.engine.removeprefix("Mohist").strip().partition(":")
        speculate = f"{how}:{files[draft]}" if colon else how or "off"
        if spec.format == "bf16":
            return Mohist(files["f32"], spec.threads, "bf16", speculate)
        if spec.format.endswith(AS_F32):
            return Mohist(files[spec.format.removesuffix(AS_F32)], spec.threads, "f32", speculate)
        return Mohist(files[spec.format], spec.threads, None, speculate)
    if spec.engine == "llama.cpp":
        return LlamaCpp(files[spec.format], spec.threads)
    return Transformers(files["hf"], spec.threads)


def trainer(spec: Spec, folders: dict[str, str]) -> Any:
    """TRL or Mohist, about to train; `spec.format` is "MODEL WORK"."""
    model, _, work = spec.format.partition(" ")
    peers = importlib.import_module("bench.rl_trl" if spec.engine.startswith("TRL") else "bench.rl_mohist")
    if spec.engine.startswith("inexact"):
        peers.be_inexact()
    if work == "sft":
        return peers.Sft(folders[model], spec.threads)
    return peers.Grpo(folders[model], WORKLOADS[work], spec.threads)


def prepared_files(module: str = "bench.files") -> dict[str, str]:
    """The weights for every peer by format (see the module), made in a process that goes away again."""
    run = subprocess.run([sys.executable, "-m", module], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout)
