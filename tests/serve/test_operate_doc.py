"""docs/operate.md says what is: its configs can be read, its routes and metrics are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mohist.config import load
from mohist.serve.metrics import Metrics
from mohist.serve.settings import ServeConfig
from tests.serve.live import Live

DOC = (Path(__file__).parents[2] / "docs" / "operate.md").read_text(encoding="utf-8")
CONFIGS = re.findall(r"^```toml\n(.*?)^```", DOC, re.M | re.S)


@pytest.mark.parametrize("text", CONFIGS)
def test_configs_can_be_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text, encoding="utf-8")
    config = load(ServeConfig, path=path)
    assert config.models or config.upstreams
    for model in (*config.models, *config.upstreams):
        assert model.prices.prompt_per_million in (0.0, 2.0)


def test_there_are_configs() -> None:
    assert len(CONFIGS) == 2


def test_the_admin_routes_are_those_of_the_server(server: Live) -> None:
    paths = server.client.get("/openapi.json").json()["paths"]
    found = {(method.upper(), path) for path in paths if path.startswith("/admin") for method in paths[path]}
    said = set(re.findall(r"^\| `([A-Z]+) (/admin\S+)` \|", DOC, re.M))
    assert said == found


def test_the_metrics_are_those_of_the_server() -> None:
    paragraph = DOC.partition("Metrics have the names")[2].partition("\n\n")[0]
    names = [
        name.partition("{")[0]
        for name in re.findall(r"`([a-z0-9_]+(?:\{\w+\})?)`", paragraph)
        if name != "model"
    ]
    text = Metrics(dict).text().decode()
    declared = set(re.findall(r"^# TYPE mohist:(\S+)", text, re.M))
    declared = {name for name in declared if not name.endswith("_created")}
    assert set(names) == declared
