"""The engine's face: what goes in, what comes out, and what happens when callers change their minds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest

from mohist.engine.engine import Engine, EngineConfig, Event, FinishEvent, ScoreEvent, TokenEvent
from mohist.engine.sequence import Status
from mohist.errors import ConfigError, RequestError
from mohist.types import Completion, Request, SamplingParams, Usage

from .fake_runner import FakeRunner, RunnerFailure, answer_alone, completion_of, scores_alone

PARAMS = SamplingParams(max_tokens=6, seed=3, top_logprobs=1)


def alone(prompt: list[int], params: SamplingParams = PARAMS, sample: int = 0, **options: Any) -> Completion:
    draws, reason = answer_alone(prompt, params, sample, FakeRunner(**options))
    return completion_of(draws, reason, prompt, Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0))


def run_out(engine: Engine) -> list[Event]:
    events: list[Event] = []
    while engine.busy:
        events += engine.step()
        engine.check()
    return events


def completions_of(events: Iterable[Event]) -> dict[int, Completion]:
    return {event.id: event.completion for event in events if isinstance(event, FinishEvent)}


def test_an_answer_comes_as_tokens_and_then_as_a_whole() -> None:
    engine = Engine(FakeRunner())
    (id,) = engine.submit([1, 2, 3], PARAMS)
    *tokens, last = run_out(engine)
    expected = alone([1, 2, 3])
    assert last == FinishEvent(id, expected)
    assert [event.draw.token for event in tokens if isinstance(event, TokenEvent)] == list(expected.tokens)
    assert len(tokens) == 6


def test_generate_answers_in_order_and_reports_progress() -> None:
    calls: list[tuple[int, int]] = []
    prompts = [[1, 2, 3], [4], [1, 2]]
    engine = Engine(FakeRunner(), EngineConfig(max_running=2, max_step_tokens=3))
    completions = engine.generate(
        prompts, PARAMS, num_samples=2, progress=lambda done, total: calls.append((done, total))
    )
    assert completions == [alone(prompt, sample=sample) for prompt in prompts for sample in range(2)]
    assert calls == [(done, 6) for done in range(1, 7)]
    assert not engine.busy


def test_nothing_to_do_is_no_trouble() -> None:
    engine = Engine(FakeRunner())
    assert engine.generate([], PARAMS) == []
    assert engine.score_batch([]) == []
    assert engine.step() == []
    assert not engine.busy


def test_a_request_has_its_own_params_and_sample_index() -> None:
    engine = Engine(FakeRunner())
    request = Request(prompt=(1, 2), params=PARAMS, sample=3)
    assert engine.generate([request], num_samples=2) == [alone([1, 2], sample=3), alone([1, 2], sample=4)]
    with pytest.raises(RequestError, match="only one"):
        engine.submit(request, PARAMS)


@pytest.mark.parametrize(
    ("params", "reason", "num_tokens"),
    [
        (SamplingParams(max_tokens=1), "length", 1),
        (SamplingParams(max_tokens=40), "length", 5),
        (SamplingParams(max_tokens=40, stop_tokens=tuple(range(7))), "stop", 1),
        (SamplingParams(max_tokens=1, stop_tokens=tuple(range(7))), "stop", 1),
    ],
)
def test_why_an_answer_ends(params: SamplingParams, reason: str, num_tokens: int) -> None:
    (completion,) = Engine(FakeRunner(max_positions=8)).generate([[1, 2, 3]], params)
    assert completion.finish_reason == reason
    assert len(completion.tokens) == num_tokens


def test_a_stop_token_is_part_of_the_answer() -> None:
    whole = alone([1, 2], PARAMS)
    stop = whole.tokens[2]
    (completion,) = Engine(FakeRunner()).generate([[1, 2]], PARAMS.replace(stop_tokens=(stop,)))
    assert completion.tokens == whole.tokens[: whole.tokens.index(stop) + 1]


def test_a_score_equals_the_logprobs_of_the_answer() -> None:
    engine = Engine(FakeRunner(), EngineConfig(max_running=2, max_step_tokens=3))
    (completion,) = engine.generate([[1, 2, 3]], PARAMS)
    text = [1, 2, 3, *completion.tokens]
    assert engine.score(text, start=3) == completion.logprobs
    assert engine.score(text)[2:] == completion.logprobs
    batch = [(text[:length], start) for length in range(2, 9) for start in range(1, length)]
    assert engine.score_batch(batch) == [scores_alone(tokens, start, weights=0) for tokens, start in batch]
    id = engine.submit_score(text, start=8)
    assert run_out(engine) == [ScoreEvent(id, completion.logprobs[-1:])]


def test_streams_and_steps_and_calls_share_an_engine() -> None:
    engine = Engine(FakeRunner(), EngineConfig(max_running=3, max_step_tokens=4))
    (own,) = engine.submit([5], PARAMS)
    first, second = engine.stream([1], PARAMS), engine.stream([2], PARAMS)
    seen: dict[int, list[Event]] = {1: [next(first)], 2: [next(second)]}
    events = engine.step()
    assert engine.generate([[3]], PARAMS) == [alone([3])]
    assert engine.score([1, 2, 3]) == scores_alone([1, 2, 3], 1, weights=0)
    for one, two in zip(first, second, strict=True):
        seen[1].append(one)
        seen[2].append(two)
    events += run_out(engine)
    assert {event.id for event in events} == {own}
    for prompt, its_events in ((5, events), (1, seen[1]), (2, seen[2])):
        assert list(completions_of(its_events).values()) == [alone([prompt])]
        assert len(its_events) == 7
    assert not engine._inboxes._followed


def test_closing_a_stream_aborts_it() -> None:
    engine = Engine(FakeRunner())
    stream = engine.stream([1], PARAMS)
    next(stream)
    assert engine.busy
    stream.close()
    assert not engine.busy
    assert engine.stats().blocks_used == 0
    assert not engine._inboxes._followed


def test_an_error_in_progress_leaves_nothing_behind() -> None:
    engine = Engine(FakeRunner())

    def fail(done: int, total: int) -> None:
        raise ZeroDivisionError

    (other,) = engine.submit([5], PARAMS)
    with pytest.raises(ZeroDivisionError):
        engine.generate([[1], [2, 3]], PARAMS, progress=fail)
    assert completions_of(run_out(engine)) == {other: alone([5])}


def abort_when_waiting(engine: Engine, id: int) -> None:
    assert engine._loop.unfinished[id].status is Status.WAITING


def abort_when_partly_prefilled(engine: Engine, id: int) -> None:
    engine.step()
    assert 0 < engine._loop.unfinished[id].num_computed < 9


def abort_when_decoding(engine: Engine, id: int) -> None:
    while not engine._loop.unfinished[id].num_generated:
        engine.step()


def abort_when_preempted(engine: Engine, id: int) -> None:
    abort_when_decoding(engine, id)
    engine._loop.scheduler.preempt_all()
    assert engine._loop.unfinished[id].status is Status.WAITING


@pytest.mark.parametrize(
    "reach", [abort_when_waiting, abort_when_partly_prefilled, abort_when_decoding, abort_when_preempted]
)
def test_a_request_can_be_aborted_in_every_state(reach: Callable[[Engine, int], None]) -> None:
    engine = Engine(FakeRunner(), EngineConfig(max_running=3, max_step_tokens=8))
    (before,) = engine.submit([6], PARAMS)
    (id,) = engine.submit([1] * 9, PARAMS)
    (after,) = engine.submit([2, 3], PARAMS)
    reach(engine, id)
    num_generated = engine._loop.unfinished[id].num_generated
    assert engine.abort(id)
    assert not engine.abort(id)
    engine.check()
    completions = completions_of(run_out(engine))
    whole = alone([1] * 9)
    assert completions[id].finish_reason == "abort"
    assert completions[id].tokens == whole.tokens[:num_generated]
    assert completions[id].logprobs == whole.logprobs[:num_generated]
    assert (completions[before], completions[after]) == (alone([6]), alone([2, 3]))
    assert not engine.abort(id)
    assert not engine.abort(99)
    assert engine.stats().blocks_used == 0


def test_a_score_can_be_aborted() -> None:
    engine = Engine(FakeRunner(), EngineConfig(max_running=1, max_step_tokens=4))
    ids = [engine.submit_score([1] * 9) for _ in range(2)]
    engine.step()
    for id in ids:
        assert engine.abort(id)
    assert run_out(engine) == [ScoreEvent(id, None) for id in ids]


def test_new_weights_drop_the_cache() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    (old,) = engine.generate([[1] * 9], PARAMS)
    runner.weights += 1
    engine.update_weights()
    (new,) = engine.generate([[1] * 9], PARAMS)
    assert new.usage.cached_tokens == 0
    assert new.logprobs != old.logprobs
    assert new.logprobs == engine.score([*[1] * 9, *new.tokens], start=9)


def test_new_weights_wait_for_unfinished_answers() -> None:
    runner = FakeRunner()
    engine = Engine(runner)
    (id,) = engine.submit([1], PARAMS)
    with pytest.raises(RequestError, match="1 unfinished"):
        engine.update_weights()
    engine.abort(id)
    engine.update_weights()
    assert runner.weights_told == 1


@pytest.mark.parametrize("num_rows", [0, 1, 5, 9])
def test_an_answer_survives_a_failure_of_the_runner(num_rows: int) -> None:
    runner = FakeRunner(block_size=2)
    engine = Engine(runner)
    ids = engine.submit([1, 2, 3, 4], PARAMS, num_samples=3)
    events = engine.step()
    ids += engine.submit([1, 2, 3, 5, 6, 1], PARAMS, num_samples=3)
    runner.fail_after(num_rows)
    with pytest.raises(RunnerFailure):
        engine.step()
    engine.check()
    assert engine.stats().running == 0
    completions = completions_of([*events, *run_out(engine)])
    for id, prompt, sample in zip(
        ids, [[1, 2, 3, 4]] * 3 + [[1, 2, 3, 5, 6, 1]] * 3, [0, 1, 2] * 2, strict=True
    ):
        assert completions[id].logprobs == alone(prompt, sample=sample).logprobs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda engine: engine.submit([]), "no tokens"),
        (lambda engine: engine.submit([1, 7]), r"token 7 at index 1 .* 0\.\.6"),
        (lambda engine: engine.submit([-1]), "token -1 at index 0"),
        (lambda engine: engine.submit("text"), "token ids"),
        (lambda engine: engine.submit([1.5]), "token ids"),
        (lambda engine: engine.submit([1], num_samples=0), "num_samples = 0"),
        (lambda engine: engine.submit([1], salt="tenant"), "salt = 'tenant'"),
        (lambda engine: engine.submit([1] * 64), "64 tokens and the model's context 64"),
        (lambda engine: engine.submit([1] * 30, PARAMS), "35 tokens .* holds 32"),
        (lambda engine: engine.submit_score([1]), "start = 1 for a text of 1"),
        (lambda engine: engine.submit_score([1, 2], start=0), "start = 0"),
        (lambda engine: engine.submit_score([1] * 65), "65 tokens .* 64"),
        (lambda engine: engine.submit_score([1] * 34), "33 tokens .* holds 32"),
        (lambda engine: engine.generate([[1], [2], []], PARAMS), "no tokens"),
        (lambda engine: engine.score_batch([([1, 2], 1), ([1, 9], 1)]), "token 9"),
        (lambda engine: engine.stream([9]), "token 9"),
    ],
)
def test_a_bad_request_is_refused_and_harms_nobody(call: Callable[[Engine], Any], message: str) -> None:
    engine = Engine(FakeRunner(num_blocks=8))
    engine.submit([1], PARAMS)
    with pytest.raises(RequestError, match=message):
        call(engine)
    assert engine.stats().waiting == 1
    assert list(completions_of(run_out(engine)).values()) == [alone([1])]


def test_what_just_fits_is_served() -> None:
    engine = Engine(FakeRunner(num_blocks=8, max_positions=64))
    (completion,) = engine.generate([[1] * 27], PARAMS)
    assert len(completion.tokens) == 6
    assert len(engine.score([1] * 33)) == 32
    (completion,) = Engine(FakeRunner()).generate([[1] * 63], PARAMS)
    assert completion.finish_reason == "length"
    assert len(completion.tokens) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_running": 0}, "max_running = 0"),
        ({"max_running": 8, "max_step_tokens": 7}, "max_step_tokens = 7"),
    ],
)
def test_a_bad_config_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(**options)


def test_token_ids_of_other_integer_types_are_taken_as_they_are() -> None:
    class Int:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            return self.value

    engine = Engine(FakeRunner())
    prompt: Any = [Int(1), Int(2)]
    assert engine.generate([prompt], PARAMS) == [alone([1, 2])]


def test_stats_count_what_happened() -> None:
    engine = Engine(FakeRunner(), EngineConfig(max_running=2, max_step_tokens=64))
    engine.submit([1] * 9, PARAMS, num_samples=3)
    engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    assert (stats.blocks_used, stats.blocks_total) == (4, 64)
    assert (stats.steps, stats.computed_tokens, stats.generated_tokens, stats.cached_tokens) == (1, 10, 2, 8)
    run_out(engine)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert (stats.generated_tokens, stats.cached_tokens, stats.preemptions) == (18, 16, 0)
    assert stats.computed_tokens == 3 * (9 + 5) - 16


def test_ids_grow_with_arrival() -> None:
    engine = Engine(FakeRunner())
    ids = [*engine.submit([1], num_samples=2), engine.submit_score([1, 2]), *engine.submit([2])]
    assert ids == [id for id, _ in zip(count(ids[0]), ids, strict=False)]
