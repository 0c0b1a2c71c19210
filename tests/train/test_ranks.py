"""Two processes under gloo share a step: the same metrics, the same gradients up to rounding."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from tests.train import runs


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_two_ranks_are_one(tmp_path: Path) -> None:
    config = runs.write_config(tmp_path)
    alone = runs.run(config, tmp_path / "alone")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with (
        runs.started(config, tmp_path / "both", RANK="0", **shared) as first,
        runs.started(config, tmp_path / "both", RANK="1", **shared) as second,
    ):
        both, same = runs.finish(first), runs.finish(second)
    assert both == same
    expected, found = runs.metrics(tmp_path / "alone"), runs.metrics(tmp_path / "both")
    assert found[0].keys() == expected[0].keys()
    for key, value in expected[0].items():  # before any gradient, not a bit differs
        assert found[0][key] == (pytest.approx(value, rel=1e-5) if key == "grad_norm" else value), key
    for theirs, ours in zip(found, expected, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    for name, tensor in runs.weights(alone).items():
        torch.testing.assert_close(runs.weights(both)[name], tensor, rtol=1e-3, atol=1e-4)
