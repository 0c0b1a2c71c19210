"""The quickstart in small: random weights, a cold start, and reinforcement learning that works."""

import json
from pathlib import Path

import pytest

from mohist.config import load
from mohist.recipes.outcome import read_outcome
from mohist.recipes.r1 import R1Config, r1


@pytest.mark.timeout(600)
def test_it_learns_to_go_on_and_is_right(tmp_path: Path) -> None:
    path = Path(__file__).with_name("miniature.toml")
    config = load(R1Config, path=path, overrides=["--folder", str(tmp_path)])
    r1(config)
    outcome = read_outcome(config)
    (greedy, sampled), (greedy_after, sampled_after) = outcome.before, outcome.after
    assert greedy_after.accuracy > 2 * greedy.accuracy
    assert sampled_after.accuracy > sampled.accuracy + 0.2
    assert sampled_after.summary["tokens"] > 1.5 * sampled.summary["tokens"]
    metrics = (config.reinforced("").run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["mismatch"] for line in metrics[1:]] == [0.0] * config.reinforce.steps
