"""What the admin API changes outlives the server and a crash; the config can overrule it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import OperationalError

from mohist.config import dump_toml
from mohist.cost import Prices
from mohist.errors import WeightsError
from mohist.serve import database as schema
from mohist.serve.changes import Changes, forget
from mohist.serve.database import Database
from mohist.serve.errors import ApiError
from mohist.serve.loading import Loader, ModelConfig
from mohist.serve.models import Models
from mohist.serve.operations import Operations
from mohist.serve.settings import ServeConfig, ServerConfig
from mohist.serve.upstream import Upstream, UpstreamConfig
from tests.serve.live import live
from tests.serve.test_models import FakeBackend

A, B, C = (ModelConfig(source=f"{name}.gguf") for name in "abc")
FAR = UpstreamConfig(name="far", url="http://127.0.0.1:1", model="m")


def load(config: ModelConfig) -> FakeBackend:
    if config.called == "gone":
        raise WeightsError("gone.gguf: no such file")
    if config.called == "mad":
        raise RuntimeError("a defect")
    return FakeBackend(config.called)


def begin(
    database: Database,
    *configs: ModelConfig,
    aliases: Mapping[str, str] | None = None,
    upstreams: tuple[UpstreamConfig, ...] = (),
    server: str = "",
) -> tuple[Models, Changes]:
    """A start with this config."""
    wanted = {"default": "a", **(aliases or {})}
    named = {**{one.called: one for one in configs}, **{one.name: one for one in upstreams}}
    changes = Changes(database, server, models=named, aliases=wanted)
    models = Models(
        configs=configs,
        upstreams=map(Upstream, upstreams),
        aliases=wanted,
        loader=Loader(load=load, memory_bytes=lambda _: 1, settle=lambda: None),
        journal=changes,
    )
    changes.restore(models)
    return models, changes


def shown(changes: Changes) -> list[tuple[Any, ...]]:
    """Kind, name and problem of each change."""
    return sorted((one.kind, one.name, one.problem) for one in changes.all)


def test_models_and_aliases_are_as_they_were_left(database: Database) -> None:
    rich = ModelConfig(
        source="c.gguf",
        name="new",
        adapters=("law=folder",),
        prices=Prices(currency="CNY", prompt_per_million=2.5),
    )

    async def change() -> None:
        models, _ = begin(database, A, B, aliases={"fast": "b"}, upstreams=(FAR,))
        await models.add(rich)
        await models.switch({"default": "new", "fast": None, "lawyer": "new:law"})
        await models.remove("b")
        await models.remove("far")

    asyncio.run(change())
    models, changes = begin(database, A, B, aliases={"fast": "b"}, upstreams=(FAR,))
    assert models.aliases == {"default": "new", "lawyer": "new:law"}
    assert [state.name for state in models.states()] == ["a", "new"]
    assert models.state("new").settings == rich
    assert shown(changes) == [
        ("alias", "default", None),
        ("alias", "fast", None),
        ("alias", "lawyer", None),
        ("model", "b", None),
        ("model", "far", None),
        ("model", "new", None),
    ]
    assert all(change.at_ms > 1_700_000_000_000 for change in changes.all)


def test_what_is_changed_back_is_no_change(database: Database) -> None:
    async def change() -> None:
        models, changes = begin(database, A, B)
        await models.add(C)
        await models.switch({"default": "c", "x": "b"})
        assert len(changes.all) == 3
        await models.switch({"default": "a", "x": None})
        await models.remove("c")
        await models.remove("b")
        await models.add(B)
        assert changes.all == []

    asyncio.run(change())
    _, changes = begin(database, A, B)
    assert changes.all == []


def test_a_model_may_be_another_under_the_same_name(database: Database) -> None:
    quantized = ModelConfig(source="b.gguf", quantize="q8_0")

    async def change() -> None:
        models, _ = begin(database, A, B)
        await models.remove("b")
        await models.add(quantized)

    asyncio.run(change())
    models, _ = begin(database, A, B)
    assert models.state("b").settings == quantized


def test_the_config_is_heard_where_it_spoke_last(database: Database) -> None:
    """A change stands for as long as the config says of its name what it said when the change was made."""

    async def change() -> None:
        models, _ = begin(database, A, B)
        await models.add(C)
        await models.switch({"default": "b", "fast": "c"})

    asyncio.run(change())
    models, changes = begin(database, B, A, aliases={"default": "b"})
    assert models.aliases == {"default": "b", "fast": "c"}
    models, changes = begin(database, A, C, aliases={"default": "c"})
    outdated = "the config says something else about this name than it did then"
    assert models.aliases == {"default": "c", "fast": "c"}
    assert shown(changes) == [
        ("alias", "default", outdated),
        ("alias", "fast", None),
        ("model", "c", outdated),
    ]
    models, changes = begin(database, A, B)
    assert models.aliases == {"default": "b", "fast": "c"}, "nothing was dropped: the old config is as it was"


def test_what_does_not_fit_any_more_is_set_aside_and_the_server_starts(database: Database) -> None:
    async def change() -> None:
        models, _ = begin(database, A, B)
        await models.switch({"x": "b", "y": "a"})

    asyncio.run(change())
    models, changes = begin(database, A, ModelConfig(source="c.gguf", name="y"))
    assert models.aliases == {"default": "a"}
    problems = {change.name: change.problem for change in changes.all}
    assert problems["x"] == "aliases: x = 'b': no such model; known: default, a, y"
    assert problems["y"] == "aliases: 'y' is the name of a model: choose another alias"


@pytest.mark.parametrize("nonsense", ["source = ", 'sauce = "x"', "threads = 0"])
def test_settings_that_cannot_be_read_are_set_aside(database: Database, nonsense: str) -> None:
    async def change() -> None:
        models, _ = begin(database, A)
        await models.add(B)

    asyncio.run(change())
    with database.writing() as connection:
        connection.execute(update(schema.changes).values(changed=nonsense))
    models, changes = begin(database, A)
    assert [state.name for state in models.states()] == ["a"]
    assert changes.all[0].problem


def test_settings_that_a_newer_mohist_adds_are_no_difference(database: Database) -> None:
    async def change() -> None:
        models, _ = begin(database, A, B)
        await models.remove("b")

    asyncio.run(change())
    older = dump_toml(B).replace('speculate = "lookup"\n', "")
    assert older != dump_toml(B)
    with database.writing() as connection:
        connection.execute(update(schema.changes).values(configured=older))
    models, _ = begin(database, A, B)
    assert [state.name for state in models.states()] == ["a"]


def test_a_model_that_no_longer_loads_is_shown_and_stops_nothing(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    good = ModelConfig(source="1.gguf", name="good")

    async def change() -> None:
        models, _ = begin(database, A)
        await models.add(good)

    asyncio.run(change())
    for name, error in [
        ("gone", "gone.gguf: no such file"),
        ("mad", "RuntimeError: the server's log says where"),
    ]:
        config = ModelConfig(source=f"{name}.gguf")
        with database.writing() as connection:
            connection.execute(update(schema.changes).values(name=name, changed=dump_toml(config)))

        async def again(name: str = name, error: str = error) -> None:
            models, _ = begin(database, A)
            await models.start()
            assert list(models.loaded) == ["a"]
            assert (models.state(name).state, models.state(name).error) == ("failed", error)
            with pytest.raises(ApiError if name == "gone" else RuntimeError):
                async with models.lease(name):
                    pass

        asyncio.run(again())
    assert "a model could not be loaded" in caplog.text
    models, _ = begin(database, A, ModelConfig(source="gone.gguf"))
    with pytest.raises(WeightsError):
        asyncio.run(models.start())


def test_a_change_that_cannot_be_written_is_not_made(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change() -> None:
        models, changes = begin(database, A, B)

        def broken(_: object) -> None:
            raise OperationalError("insert", {}, Exception("the disk is full"))

        monkeypatch.setattr(changes, "_write", broken)
        for work in (models.add(C), models.remove("b"), models.switch({"default": "b"})):
            with pytest.raises(ApiError) as caught:
                await work
            assert (caught.value.status, caught.value.code) == (503, "not_kept")
        assert models.aliases == {"default": "a"}
        assert [(state.name, state.state) for state in models.states()] == [
            ("a", "not loaded"),
            ("b", "not loaded"),
        ]
        assert changes.all == []

    asyncio.run(change())


def test_a_crash_between_writing_and_doing_leaves_whole_changes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is what the next start has, although nobody was told that it was done."""

    class Crash(BaseException):
        pass

    async def change() -> None:
        models, changes = begin(database, A, B, aliases={"fast": "b"})
        keep = changes.keep

        async def dying(**made: Any) -> None:
            await keep(**made)
            raise Crash

        monkeypatch.setattr(changes, "keep", dying)
        with pytest.raises(Crash):
            await models.switch({"default": "b", "fast": "a"})
        assert models.aliases == {"default": "a", "fast": "b"}

    asyncio.run(change())
    models, _ = begin(database, A, B, aliases={"fast": "b"})
    assert models.aliases == {"default": "b", "fast": "a"}


def test_changes_at_once_are_kept_in_the_order_in_which_they_are_made(database: Database) -> None:
    async def change() -> None:
        models, _ = begin(database, A, B)
        await asyncio.gather(
            models.add(C), *(models.switch({"default": name, "other": name}) for name in "abab" * 5)
        )
        assert models.aliases == {"default": "b", "other": "b"}

    asyncio.run(change())
    models, _ = begin(database, A, B)
    assert models.aliases == {"default": "b", "other": "b"}
    assert [state.name for state in models.states()] == ["a", "b", "c"]


def test_servers_of_one_database_have_changes_of_their_own(database: Database) -> None:
    async def change() -> None:
        models, _ = begin(database, A, server="east")
        await models.add(B)

    asyncio.run(change())
    assert len(begin(database, A, server="west")[0].states()) == 1
    assert len(begin(database, A, server="east")[0].states()) == 2
    assert forget(database, "west") == 0
    assert forget(database, "east") == 1
    assert len(begin(database, A, server="east")[0].states()) == 1
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM changes")).scalar_one() == 0


def test_a_server_that_starts_again(tiny_model: Path, other_tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    shutil.copytree(other_tiny_model, folder)
    with live(tmp_path, {"tiny": tiny_model}) as server:
        body = {"source": str(folder), "name": "new", "threads": 1, "prices": {"completion_per_million": 2}}
        assert server.client.post("/admin/models", json=body).status_code == 201
        assert server.client.put("/admin/aliases", json={"default": "new"}).json() == {"default": "new"}
        said = server.chat("hello").json()["choices"]
        assert server.client.put("/admin/aliases", json={"a\0b": "new"}).status_code == 400
    with live(tmp_path, {"tiny": tiny_model}) as server:
        assert server.chat("hello").json()["choices"] == said
        found = server.client.get("/admin/models").json()
        assert found["aliases"] == {"default": "new"}
        (alias, model) = sorted(found["changes"], key=lambda change: change["kind"])
        assert (alias["configured"], alias["changed"], alias["problem"]) == ("tiny", "new", None)
        assert (model["kind"], model["name"], model["configured"]) == ("model", "new", None)
    shutil.rmtree(folder)
    with live(tmp_path, {"tiny": tiny_model}) as server:
        states = {model["name"]: model for model in server.client.get("/admin/models").json()["models"]}
        assert (states["tiny"]["state"], states["new"]["state"]) == ("loaded", "failed")
        assert "no such file or folder" in states["new"]["error"]
        assert server.client.get("/health/ready").status_code == 200
        refused = server.chat("hello")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
        assert str(folder) not in refused.text, "what an operator may read is no client's business"
        assert server.client.put("/admin/aliases", json={"default": "tiny"}).status_code == 200
        assert server.client.delete("/admin/models/new").status_code == 204
        assert server.client.get("/admin/models").json()["changes"] == []


def test_changes_can_be_forgotten(tiny_model: Path, tmp_path: Path) -> None:
    with live(tmp_path, {"tiny": tiny_model}) as server:
        server.client.put("/admin/aliases", json={"fast": "tiny"})
    config = ServeConfig(
        models=(ModelConfig(name="tiny", source=str(tiny_model)),), data=tmp_path, server=ServerConfig(port=0)
    )
    for forgets, aliases in [(False, {"default", "fast"}), (True, {"default"}), (False, {"default"})]:
        operations = Operations(config, forget_changes=forgets)
        assert set(operations.models.aliases) == aliases
        operations.close()
