"""Limits at the door, usage at the end, rates in between."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from mohist.cost import Prices
from mohist.engine.engine import Engine, EngineStats
from mohist.serve import usage as module
from mohist.serve.access import ANONYMOUS, Principal
from mohist.serve.answer import Usage
from mohist.serve.database import Database
from mohist.serve.errors import ApiError
from mohist.serve.limits import KeyLimits, Limiter
from mohist.serve.metering import Metering
from mohist.serve.metrics import Metrics
from mohist.serve.throughput import Moment, Throughput
from mohist.serve.usage import UsageWriter, report
from tests.engine.fake_runner import FakeRunner
from tests.serve.live import Live, wait_for

PRICES = {
    "dear": Prices(
        currency="EUR", prompt_per_million=10.0, cached_per_million=1.0, completion_per_million=30.0
    ),
    "free": Prices(),
}
ANN = Principal(key_id="a", name="Ann", limits=KeyLimits(requests_per_minute=2, tokens_per_minute=1000))


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    opened = Database.open(tmp_path / "m.db")
    yield opened
    opened.close()


@pytest.fixture
def writer(database: Database) -> Generator[UsageWriter]:
    writer = UsageWriter(database)
    yield writer
    writer.close()


@pytest.fixture
def meter(writer: UsageWriter) -> Metering:
    return Metering(
        limiter=Limiter(clock=lambda: 0.0),
        writer=writer,
        metrics=Metrics(dict),
        prices=PRICES.__getitem__,
        now_ms=lambda: 86_400_000 * 3 + 7,
    )


def test_a_choice_is_priced_by_its_model_and_charged_to_its_key(
    meter: Metering, writer: UsageWriter, database: Database
) -> None:
    meter.enter(ANN)
    meter.enter(ANONYMOUS)
    used = Usage(prompt_tokens=100, cached_tokens=60, completion_tokens=20, reasoning_tokens=5)
    meter.record(ANN, "r1", "dear", used, "stop", 1.0)
    meter.record(ANONYMOUS, "r2", "free", used, "length", 1.0)
    assert meter.headers(ANN)["x-ratelimit-remaining-tokens"] == "880"
    assert meter.headers(ANONYMOUS) == {}
    writer.close()
    anonymous, ann = report(database, by=("key", "model", "day"))
    assert (anonymous.key_id, anonymous.model, anonymous.cost_nano, anonymous.currency) == (
        "",
        "free",
        0,
        "USD",
    )
    assert (ann.key_id, ann.model, ann.day_ms, ann.currency) == ("a", "dear", 86_400_000 * 3, "EUR")
    assert ann.cost_nano == 40 * 10_000 + 60 * 1_000 + 20 * 30_000
    assert (ann.prompt_tokens, ann.cached_tokens, ann.completion_tokens, ann.reasoning_tokens) == (
        100,
        60,
        20,
        5,
    )


def test_over_a_limit_is_429(meter: Metering) -> None:
    meter.enter(ANN)
    meter.leave(ANN)
    meter.enter(ANN)
    with pytest.raises(ApiError) as caught:
        meter.enter(ANN)
    error = caught.value
    assert (error.status, error.type, error.code, error.retry_after_s) == (
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
        30,
    )


def test_where_usage_cannot_be_kept_nothing_is_accepted(
    meter: Metering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 0)
    with pytest.raises(ApiError) as caught:
        meter.enter(ANONYMOUS)
    assert (caught.value.status, caught.value.retry_after_s) == (503, 30)


def test_who_leaves_has_paid_for_what_was_generated(server: Live) -> None:
    body = {
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "temperature": 0,
        "max_tokens": 200,
    }
    whole = server.client.post("/v1/chat/completions", json=body | {"stream": False}).json()["usage"]
    assert whole["completion_tokens"] > 3
    with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        id = response.headers["x-request-id"]
        lines = (line for line in response.iter_lines() if line.startswith("data: "))
        for _ in range(3):
            next(lines)
    rows = []

    def metered() -> bool:
        with server.operations.database.reading() as connection:
            rows[:] = connection.execute(module.usage.select().where(module.usage.c.request_id == id)).all()
        return bool(rows)

    wait_for(metered)
    (row,) = rows
    assert row.prompt_tokens == whole["prompt_tokens"]
    assert 0 < row.completion_tokens <= whole["completion_tokens"]


def stats(steps: int, generated: int, computed: int, running: int = 1) -> EngineStats:
    idle = Engine(FakeRunner(num_blocks=10, block_size=4)).stats()
    return replace(
        idle,
        steps=steps,
        generated_tokens=generated,
        computed_tokens=computed,
        running=running,
        blocks_used=5,
    )


def test_rates_are_differences_of_counts() -> None:
    now: dict[str, EngineStats] = {}
    clock = iter([1000, 2000, 4000, 5000])
    throughput = Throughput(lambda: now, keep=2, now_ms=lambda: next(clock))
    now["a"] = stats(1, 10, 100)
    throughput.look()
    assert throughput.moments == []
    now["a"], now["b"] = stats(2, 15, 130), stats(9, 90, 900)
    throughput.look()
    expected = Moment(
        at_ms=2000, model="a", running=1, waiting=0, cache_used=0.5, generated_per_s=5.0, computed_per_s=30.0
    )
    assert throughput.moments == [expected]
    now["a"], now["b"] = stats(4, 19, 150), stats(1, 2, 20)
    throughput.look()
    again = replace(expected, at_ms=4000, generated_per_s=2.0, computed_per_s=10.0)
    assert throughput.moments == [expected, again], "b was loaded anew"
    del now["a"]
    throughput.look()
    assert [moment.model for moment in throughput.moments] == ["a", "b"], "the oldest is forgotten"
