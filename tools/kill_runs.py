"""Kills a run with SIGKILL at random moments, resumes it each time, and compares it with an undisturbed one.

    python tools/kill_runs.py sft CONFIG.toml --kills 20

runs `mohist sft CONFIG.toml` once alone, then again with kills at moments drawn evenly, so that they fall
into start-up, steps, checkpoints and resumptions. Exit 0: the same bytes of weights and the same metrics,
times and memory aside. CONFIG.toml needs many steps, and a `run.save_every` so small that a run gets on
between two kills.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

MEASURED = ("seconds", "_s", "_bytes")
"""How metrics end that no two runs have in common."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", help="pretrain, sft or grpo")
    parser.add_argument("config", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with TemporaryDirectory() as place:
        alone, killed = Path(place, "alone"), Path(place, "killed")
        beginning, work = timed(args.verb, args.config, alone)
        draw, kills = random.Random(args.seed), 0
        while kills < args.kills:
            wait = draw.uniform(0, beginning + work / args.kills)
            process = start(args.verb, args.config, killed)
            if ended(process, wait):
                print(f"the run ended before kill {kills + 1}: give it more steps, or kill less often")
                return 1
            process.kill()
            process.communicate()
            kills += 1
            print(f"{kills}: killed after {wait:.2f} s, {latest(killed)}", flush=True)
        finish(start(args.verb, args.config, killed))
        same = contents(alone) == contents(killed)
    print("the same bits" if same else "DIFFERENT")
    return 0 if same else 1


def timed(verb: str, config: Path, folder: Path) -> tuple[float, float]:
    """Seconds until an undisturbed run has logged a step, and from there to its end."""
    process, begin = start(verb, config, folder), time.monotonic()
    log = folder / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    middle = time.monotonic()
    finish(process)
    return middle - begin, time.monotonic() - middle


def ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it ends by itself in so many seconds."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    finish(process)
    return True


def start(verb: str, config: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "mohist", verb, str(config), "--run.folder", str(folder), "--resume"]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed:\n{err.decode()}")


def latest(folder: Path) -> str:
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return max(names, key=lambda name: int(name.removeprefix("step-")), default="no checkpoint yet")


def contents(folder: Path) -> tuple[list[dict], dict[str, bytes]]:
    """Metrics without what was measured, and the bytes of all weights and states."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in row.items() if not key.endswith(MEASURED)} for row in rows]
    files = sorted(folder.rglob("*.safetensors"))
    return metrics, {str(path.relative_to(folder)): path.read_bytes() for path in files}


if __name__ == "__main__":
    sys.exit(main())
