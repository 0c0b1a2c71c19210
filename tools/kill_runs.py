"""Kills a run with SIGKILL at random moments, resumes it each time, and compares it with an undisturbed one.

    python tools/kill_runs.py sft CONFIG.toml --kills 20

runs `mohist sft CONFIG.toml` once alone, then again with kills at moments drawn evenly over the time that
the first took. Exit 0: the same bytes of weights and the same metrics, times and memory aside. CONFIG.toml
needs a `run.save_every` so small that a run gets on between two kills.
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
        begin = time.monotonic()
        finish(start(args.verb, args.config, alone))
        duration = time.monotonic() - begin
        draw = random.Random(args.seed)
        for number in range(args.kills):
            wait = draw.uniform(0, duration)
            process = start(args.verb, args.config, killed)
            try:
                process.wait(timeout=wait)
                ended = "had ended"
            except subprocess.TimeoutExpired:
                ended = "killed"
            process.kill()
            process.wait()
            print(f"{number + 1}: {ended} after {wait:.2f} s, checkpoint {latest(killed)}", flush=True)
        finish(start(args.verb, args.config, killed))
        same = contents(alone) == contents(killed)
    print("the same bits" if same else "DIFFERENT")
    return 0 if same else 1


def start(verb: str, config: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = ["-m", "mohist", verb, str(config), "--run.folder", str(folder), "--resume"]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed:\n{err.decode()}")


def latest(folder: Path) -> str:
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return max(names, key=lambda name: int(name.removeprefix("step-")), default="none")


def contents(folder: Path) -> tuple[list[dict], dict[str, bytes]]:
    """Metrics without what was measured, and the bytes of all weights and states."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{key: value for key, value in row.items() if not key.endswith(MEASURED)} for row in rows]
    files = sorted(folder.rglob("*.safetensors"))
    return metrics, {str(path.relative_to(folder)): path.read_bytes() for path in files}


if __name__ == "__main__":
    sys.exit(main())
