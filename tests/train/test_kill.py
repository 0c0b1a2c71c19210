"""kill -9 at any moment: the run goes on, and ends with the very bits of a run that was left alone."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.train import runs


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config, and the folder of a run of it that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    config = runs.write_config(folder)
    return config, runs.run(config, folder / "run")


def test_killed_at_random(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """A few times; `tools/kill_runs.py` does it as often as one likes."""
    config, expected = alone
    draw = random.Random(0)
    for _ in range(2):
        with runs.started(config, tmp_path / "run", "--resume"):
            time.sleep(draw.uniform(1.0, 3.5))
    found = runs.run(config, tmp_path / "run", "--resume")
    assert all(tensor.equal(runs.weights(expected)[name]) for name, tensor in runs.weights(found).items())
    assert runs.metrics(tmp_path / "run") == runs.metrics(expected.parents[1])


def test_interrupted_it_saves_and_ends(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    log = tmp_path / "run/metrics.jsonl"
    with runs.started(config, tmp_path / "run", "--run.save_every", "0") as process:
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        stopped = runs.finish(process)
    assert stopped.name != "step-8"
    assert f'"step": {stopped.name.removeprefix("step-")},' in log.read_text().splitlines()[-1]
    found = runs.run(config, tmp_path / "run", "--resume", "--run.save_every", "0")
    assert all(tensor.equal(runs.weights(expected)[name]) for name, tensor in runs.weights(found).items())
