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
    return config, runs.finish(runs.start(config, folder / "run"))


def test_killed_at_random(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    draw = random.Random(0)
    kills = 0
    while kills < 3:
        process = runs.start(config, tmp_path / "run", "--resume")
        waited = time.monotonic() + draw.uniform(1.0, 4.0)
        while time.monotonic() < waited and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        kills += 1
    found = runs.finish(runs.start(config, tmp_path / "run", "--resume"))
    assert all(tensor.equal(runs.weights(expected)[name]) for name, tensor in runs.weights(found).items())
    assert runs.metrics(tmp_path / "run") == runs.metrics(expected.parents[1])


def test_interrupted_it_saves_and_ends(alone: tuple[Path, Path], tmp_path: Path) -> None:
    config, expected = alone
    process = runs.start(config, tmp_path / "run", "--run.save_every", "0")
    log = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    stopped = runs.finish(process)
    assert stopped.name != "step-8"
    assert f'"step": {stopped.name.removeprefix("step-")},' in log.read_text().splitlines()[-1]
    found = runs.finish(runs.start(config, tmp_path / "run", "--resume", "--run.save_every", "0"))
    assert all(tensor.equal(runs.weights(expected)[name]) for name, tensor in runs.weights(found).items())
