"""Models come, go and change their names while requests run: nothing is lost, nothing is mixed."""

from __future__ import annotations

import dataclasses
import json
import threading
import weakref
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mohist.config import from_dict
from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.loading import LOADER, ModelConfig, settle
from mohist.serve.local import LocalModel
from mohist.serve.settings import MemoryConfig
from tests.serve.live import Live, live, wait_for

PROMPTS = ["hello", "what is a monad?", "the sea", "你好", "a longer question that takes more than a block"]
CLIENTS, ROUNDS = 8, 10


@pytest.fixture(scope="module")
def two(
    tiny_model: Path, other_tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Live]:
    models = {"first": tiny_model, "second": other_tiny_model}
    with live(tmp_path_factory.mktemp("data"), models, aliases=("default=first", "fast=second")) as server:
        yield server


def answer(server: Live, model: str, prompt: str, *, stream: bool) -> tuple[str, str]:
    """The model that answered, and what it said; every part of a stream must name the same model."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": 16,
        "stream": stream,
    }
    response = server.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    if not stream:
        data = response.json()
        return data["model"], data["choices"][0]["message"]["content"]
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    (name,) = {chunk["model"] for chunk in chunks}
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    return name, "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_aliases_switch_under_load(two: Live, tiny_model: Path) -> None:
    expected = {
        (model, prompt): answer(two, model, prompt, stream=False)[1]
        for model in ("first", "second")
        for prompt in PROMPTS
    }
    assert [expected["first", prompt] for prompt in PROMPTS] != [
        expected["second", prompt] for prompt in PROMPTS
    ]
    answers: list[tuple[str, str, str, str]] = []
    done = threading.Event()
    seen: list[dict[str, str]] = []

    def client(number: int) -> None:
        for step in range(ROUNDS):
            alias, prompt = (
                ("default", "fast")[(number + step) % 2],
                PROMPTS[(number * 3 + step) % len(PROMPTS)],
            )
            answers.append((alias, prompt, *answer(two, alias, prompt, stream=bool(step % 3))))

    def look() -> None:
        while not done.is_set():
            seen.append(two.client.get("/admin/aliases").json())

    def come_and_go() -> None:
        """A third model is loaded, asked and unloaded meanwhile."""
        while not done.is_set():
            new = {"source": str(tiny_model), "name": "third", "threads": 1}
            assert two.client.post("/admin/models", json=new).status_code == 201
            model, text = answer(two, "third", "hello", stream=True)
            assert (model, text) == ("third", expected["first", "hello"])
            assert two.client.delete("/admin/models/third").status_code == 204

    switches = 0
    with ThreadPoolExecutor(CLIENTS + 2) as pool:
        others = [pool.submit(look), pool.submit(come_and_go)]
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            while not all(one.done() for one in clients):
                models = ["first", "second"] if switches % 2 else ["second", "first"]
                changes = dict(zip(["default", "fast"], models, strict=True))
                assert two.client.put("/admin/aliases", json=changes).json() == changes
                switches += 1
        finally:
            done.set()
        for one in [*clients, *others]:
            one.result()
    assert len(answers) == CLIENTS * ROUNDS
    assert switches > 10
    assert [text for _, prompt, model, text in answers if text != expected[model, prompt]] == []
    for alias in ("default", "fast"):
        assert {model for name, _, model, _ in answers if name == alias} == {"first", "second"}
    assert all(sorted(aliases.values()) == ["first", "second"] for aliases in seen), "never both on one model"
    assert {state.name: state.requests for state in two.operations.models.states()} == {
        "first": 0,
        "second": 0,
    }


def test_a_request_ends_on_a_model_that_is_switched_away_and_unloaded(two: Live, tiny_model: Path) -> None:
    expected = answer(two, "first", "hello", stream=False)[1]
    new = {"source": str(tiny_model), "name": "old", "threads": 1}
    assert two.client.post("/admin/models", json=new).status_code == 201
    two.client.put("/admin/aliases", json={"now": "old"})
    body = {
        "model": "now",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0,
        "stream": True,
    }
    with two.client.stream("POST", "/v1/chat/completions", json=body | {"max_tokens": 16}) as response:
        lines = response.iter_lines()
        next(lines)
        two.client.put("/admin/aliases", json={"now": "second"})
        leaving = threading.Thread(target=lambda: two.client.delete("/admin/models/old"))
        leaving.start()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    leaving.join(20)
    assert not leaving.is_alive()
    assert {chunk["model"] for chunk in chunks} == {"old"}
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == expected
    assert two.client.post("/v1/chat/completions", json=body | {"model": "old"}).status_code == 400
    two.client.put("/admin/aliases", json={"now": None})


def test_a_model_makes_room_and_comes_back_when_it_is_asked_for(
    tiny_model: Path, other_tiny_model: Path, tmp_path: Path
) -> None:
    models = {"first": tiny_model, "second": other_tiny_model}
    enough_for_one = 1.5 * LOADER.memory_bytes(ModelConfig(source=str(tiny_model)))
    with live(tmp_path, models, memory=MemoryConfig(models_gib=enough_for_one / 2**30)) as server:
        before = answer(server, "first", "hello", stream=False)
        states = {state.name: state for state in server.operations.models.states()}
        assert [states[name].state for name in models] == ["loaded", "not loaded"]
        assert 0 < states["first"].memory_bytes < enough_for_one
        answer(server, "second", "hello", stream=False)
        assert list(server.operations.models.loaded) == ["second"]
        assert answer(server, "first", "hello", stream=True) == before


def test_what_an_admin_may_get_wrong(two: Live, tiny_model: Path) -> None:
    client = two.client

    def post(**body: Any) -> httpx2.Response:
        return client.post("/admin/models", json=body)

    assert post(source=str(tiny_model), name="first").status_code == 409
    assert post(source=str(tiny_model), name="default").status_code == 409
    assert post(source="/no/such/model").status_code == 503
    assert post(source=str(tiny_model), quantise="q8_0").status_code == 400
    assert post(source=str(tiny_model), prices={"prompt_per_million": -1}).status_code == 400
    assert post(source="").status_code == 400
    assert client.delete("/admin/models/first").status_code == 409
    assert client.delete("/admin/models/nothing").status_code == 404
    assert client.put("/admin/aliases", json={"x": "nothing"}).status_code == 400
    assert client.put("/admin/aliases", json={"x": 5}).status_code == 400
    assert client.put("/admin/aliases", content=b"[]").status_code == 400
    assert [state.name for state in two.operations.models.states()] == ["first", "second"]


def test_a_model_is_loaded_with_all_that_the_config_file_can_say_of_one(
    tiny_model: Path, tmp_path: Path
) -> None:
    """One definition: every field of `ModelConfig` is taken, shown, and refused with the file's own words."""
    wanted = ModelConfig(
        source=str(tiny_model),
        name="full",
        quantize="q8_0",
        cache_tokens=128,
        threads=1,
        speculate="off",
        offline=True,
        at_start=False,
        prices=Prices(currency="CNY", prompt_per_million=2.0, machine_per_hour=0.5),
    )
    body = json.loads(json.dumps(dataclasses.asdict(wanted)))
    with live(tmp_path, {"tiny": tiny_model}) as server:
        made = server.client.post("/admin/models", json=body)
        assert made.status_code == 201, made.text
        assert made.json()["settings"] == body
        (state,) = [state for state in server.operations.models.states() if state.name == "full"]
        assert state.settings == wanted
        backend = server.operations.models.loaded["full"]
        assert isinstance(backend, LocalModel)
        assert "_q8_0_" in backend.llm.fingerprint
        assert backend.llm.engine.capacity == 129
        document = server.client.get("/openapi.json").json()["components"]["schemas"]["ModelConfig"]
        assert set(document["properties"]) == {field.name for field in dataclasses.fields(ModelConfig)}
        for table, message in [
            ({"speculat": "off"}, "speculat: no such key; did you mean speculate?"),
            ({"threads": 0}, "threads = 0: it must be at least 1, or none for the default"),
            ({"adapters": ["law"]}, "adapters: 'law': expected NAME=FOLDER, each name once"),
            ({"name": None}, "name = None: expected text"),
            ({"quantize": "q9"}, "quantize = 'q9': expected f32|bf16|q8_0|q4_0|q4_1|none"),
        ]:
            refused = server.client.post("/admin/models", json={**body, "name": "other", **table})
            assert refused.status_code == 400
            assert refused.json()["error"]["message"].removeprefix("Invalid request body: ") == message
            with pytest.raises(ConfigError) as caught:
                from_dict(ModelConfig, {**body, "name": "other", **table})
            assert str(caught.value) == message


def test_memory_and_threads_of_a_model_that_left_are_given_back(two: Live, tiny_model: Path) -> None:
    new = {"source": str(tiny_model), "name": "brief", "threads": 1}
    assert two.client.post("/admin/models", json=new).status_code == 201
    backend = two.operations.models.loaded["brief"]
    assert isinstance(backend, LocalModel)
    worker, decoder = weakref.ref(backend.worker), weakref.ref(backend.llm.decoder)
    del backend
    assert two.client.delete("/admin/models/brief").status_code == 204

    def gone() -> bool:
        settle()
        return worker() is None and decoder() is None

    wait_for(gone)
    assert "mohist-brief" not in [thread.name for thread in threading.enumerate()]
