"""Adapters beside their base model: asked for by name, in one batch, metered, with receipts."""

from __future__ import annotations

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from mohist.errors import ConfigError
from mohist.kernels import load_ops
from mohist.llm import LLM
from mohist.model.load import load_decoder
from mohist.serve.loading import ModelConfig
from mohist.serve.models import Models
from mohist.train.lora import LoraConfig, add_lora, save_adapter
from mohist.weights.checkpoint import open_checkpoint
from tests.serve.live import Live, live
from tests.serve.tiny import save_babbler


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_babbler(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {}
    for seed, name in enumerate(("law", "verse")):
        decoder = load_decoder(open_checkpoint(folder), load_ops(threads=1))
        add_lora(decoder, LoraConfig(rank=4), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in decoder.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        found[name] = tmp_path_factory.mktemp("adapters") / name
        save_adapter(decoder, found[name], base="tiny")
    return found


@pytest.fixture(scope="module")
def running(
    folder: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Live]:
    pairs = tuple(f"{name}={path}" for name, path in adapters.items())
    config = ModelConfig(name="tiny", source=str(folder), threads=1, adapters=pairs)
    data = tmp_path_factory.mktemp("data")
    with live(data, {}, further=(config,), aliases=("lawyer=tiny:law",)) as server:
        yield server


def asked(running: Live, model: str, **more: Any) -> dict[str, Any]:
    response = running.chat("hello", model=model, temperature=1, seed=3, max_tokens=10, **more)
    assert response.status_code == 200, response.text
    return response.json()


def test_answers_in_one_batch_are_the_library_s(
    running: Live, folder: Path, adapters: dict[str, Path]
) -> None:
    llm = LLM.load(str(folder), threads=1, adapters=adapters)
    names = {"tiny": None, "tiny:law": "law", "tiny:verse": "verse", "lawyer": "law"}
    replies: dict[str, dict[str, Any]] = {}

    def ask(name: str) -> None:
        replies[name] = asked(running, name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    prompt = llm.chat.render([{"role": "user", "content": "hello"}])
    params = llm.defaults.replace(temperature=1.0, seed=3, max_tokens=10)
    said = set()
    for name, adapter in names.items():
        (answer,) = llm.generate([prompt], params, adapter=adapter)[0]
        reply = replies[name]
        assert reply["choices"][0]["message"]["content"] == answer.message.content
        assert reply["system_fingerprint"] == llm.fingerprint_with(adapter)
        assert reply["model"] == ("tiny" if adapter is None else f"tiny:{adapter}")
        said.add(answer.message.content)
    assert len(said) == 3, "adapters that change nothing prove nothing"


def test_they_are_listed(running: Live) -> None:
    listed = {entry["id"]: entry for entry in running.client.get("/v1/models").json()["data"]}
    assert list(listed) == ["default", "lawyer", "tiny", "tiny:law", "tiny:verse"]
    assert listed["lawyer"]["alias_of"] == "tiny:law"
    assert listed["lawyer"]["system_fingerprint"] == listed["tiny:law"]["system_fingerprint"]
    assert listed["tiny:law"]["system_fingerprint"] != listed["tiny"]["system_fingerprint"]
    refused = running.chat("hello", model="tiny:nothing")
    assert refused.status_code == 400
    assert "tiny:law" in refused.json()["error"]["message"]


def test_receipts_name_the_adapter(running: Live) -> None:
    receipt = asked(running, "lawyer", receipt=True)["receipt"]
    assert receipt["adapter"] == "law"
    found = running.client.post("/v1/replay", json=receipt)
    assert found.json()["identical"]
    other = running.client.post("/v1/replay", json={**receipt, "adapter": "verse"})
    assert other.status_code == 404


def test_echoed_logprobs_are_the_adapter_s(running: Live) -> None:
    body = {"prompt": "hello", "echo": True, "logprobs": 0, "max_tokens": 1, "temperature": 0}
    logprobs = [
        running.client.post("/v1/completions", json={**body, "model": model}).json()["choices"][0]["logprobs"]
        for model in ("tiny", "tiny:law")
    ]
    assert logprobs[0]["token_logprobs"] != logprobs[1]["token_logprobs"]


@pytest.mark.parametrize("pairs", [("law",), ("=x",), ("law=a", "law=b")])
def test_bad_pairs(pairs: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="NAME=FOLDER"):
        Models(configs=[ModelConfig(source="x", adapters=pairs)])


def test_aliases_know_adapters() -> None:
    config = ModelConfig(source="x", name="m", adapters=("law=a",))
    assert Models(configs=[config], aliases={"lawyer": "m:law"}).adapter("lawyer") == "law"
    with pytest.raises(ConfigError, match="m:verse"):
        Models(configs=[config], aliases={"poet": "m:verse"})
