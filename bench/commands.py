"""Whole commands, from start to end: when the first output came, and how much memory they took at most."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from time import perf_counter

__all__ = ["IMPORT_TORCH", "PROMPT", "Outcome", "generate", "outcome"]

PROMPT = "Why is the sky blue? Answer in two sentences."
IMPORT_TORCH = [sys.executable, "-c", "import torch; print(1, flush=True)"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command took."""

    first_output_s: float
    peak_bytes: int
    """Resident memory at its highest: VmHWM, as the kernel reports it when the process ends."""


def generate(path: str, new_tokens: int) -> list[str]:
    """The command that answers PROMPT with a model file, as a user types it."""
    options = ["--max-tokens", str(new_tokens), "--temperature", "0"]
    return [sys.executable, "-m", "mohist", "generate", path, PROMPT, *options]


def outcome(command: list[str]) -> Outcome:
    """Run a command to its end. Python's bytecode is cached, as installed packages have it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as errors:
        start = perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert process.stdout is not None
        process.stdout.read(1)
        first_output_s = perf_counter() - start
        process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"bench: {' '.join(command)} failed:\n{errors.read().decode(errors='replace')}")
    # A child starts with its parent's peak, so the parent has to be the smaller one.
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert usage.ru_maxrss > own, f"this process took {own} KiB, more than {command}"
    return Outcome(first_output_s, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
