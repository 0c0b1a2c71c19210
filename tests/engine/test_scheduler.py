"""Which rows are computed when: order, budget, fairness, preemption and sharing, seen from the runner."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.engine.engine import Engine, EngineConfig, Event, FinishEvent, ScoreEvent, TokenEvent
from mohist.engine.sequence import Chunk, Draw, Outcome
from mohist.types import SamplingParams

from .fake_runner import FakeRunner, answer_alone, scores_alone


def params(max_tokens: int, seed: int = 0) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=seed)


def spans(chunks: list[Chunk]) -> list[tuple[int, int, int]]:
    return [(chunk.sequence.id, chunk.start, chunk.end) for chunk in chunks]


def iter_events(engine: Engine) -> Iterator[Event]:
    while engine.busy:
        yield from engine.step()
        engine.check()


def run_out(engine: Engine) -> dict[int, FinishEvent]:
    """The last events of all answers, in the order of their end."""
    return {event.id: event for event in iter_events(engine) if isinstance(event, FinishEvent)}


def test_a_long_prompt_is_computed_in_chunks_and_only_the_last_draws() -> None:
    runner = FakeRunner()
    engine = Engine(runner, EngineConfig(max_running=1, max_step_tokens=4))
    engine.submit(range(6), params(2))
    run_out(engine)
    assert [spans(chunks) for chunks in runner.steps] == [[(0, 0, 4)], [(0, 4, 6)], [(0, 6, 7)]]
    assert [chunk.draws for (chunk,) in runner.steps] == [False, True, True]


def test_decoding_sequences_go_on_beside_a_long_prompt() -> None:
    runner = FakeRunner(max_positions=100, num_blocks=100)
    engine = Engine(runner, EngineConfig(max_running=4, max_step_tokens=8))
    first, second = engine.submit([1], params(20), num_samples=2)
    engine.step()
    (long,) = engine.submit([2] * 15, params(2))
    (late,) = engine.submit([3] * 2, params(2))
    for _ in range(4):
        engine.step()
    assert [spans(chunks) for chunks in runner.steps[1:]] == [
        [(first, 1, 2), (second, 1, 2), (long, 0, 6)],
        [(first, 2, 3), (second, 2, 3), (long, 6, 12)],
        [(first, 3, 4), (second, 3, 4), (long, 12, 15), (late, 0, 2)],
        [(first, 4, 5), (second, 4, 5), (long, 15, 16), (late, 2, 3)],
    ]


def test_every_running_sequence_moves_in_every_step() -> None:
    runner = FakeRunner(max_positions=100, num_blocks=100)
    engine = Engine(runner, EngineConfig(max_running=3, max_step_tokens=3))
    for _ in range(20):
        engine.submit([1] * 9, params(4))
        before = {sequence.id for sequence in engine._loop.scheduler.running}
        engine.step()
        assert before <= {chunk.sequence.id for chunk in runner.steps[-1]}


def test_first_come_first_served_even_if_a_later_one_would_fit() -> None:
    runner = FakeRunner(num_blocks=8, block_size=4, max_positions=32)
    engine = Engine(runner, EngineConfig(max_running=4, max_step_tokens=40))
    (first,) = engine.submit([1] * 16, params(4))
    (large,) = engine.submit([2] * 20, params(4))
    (small,) = engine.submit([3], params(1))
    engine.step()
    assert spans(runner.steps[-1]) == [(first, 0, 16)]
    assert list(run_out(engine)) == [first, small, large]
    admitted = [chunks for chunks in runner.steps if chunks[-1].sequence.id == small]
    assert spans(admitted[0]) == [(large, 0, 20), (small, 0, 1)]


def test_a_flood_of_later_requests_starves_nobody() -> None:
    runner = FakeRunner(num_blocks=16, block_size=4)
    engine = Engine(runner, EngineConfig(max_running=4, max_step_tokens=6))
    engine.submit([1] * 8, params(20), num_samples=3)
    (victim,) = engine.submit([2] * 30, params(20))
    for num_steps in range(200):
        engine.submit([3, num_steps % 7] * 4, params(3), num_samples=2)
        if victim in {event.id for event in engine.step() if isinstance(event, FinishEvent)}:
            break
    # 28 steps of the first three, then at least one row a step of its 49.
    assert num_steps <= 28 + 49
    assert engine.stats().waiting > 20


def test_the_youngest_gives_way_and_keeps_what_it_drew() -> None:
    runner = FakeRunner(num_blocks=6, block_size=2, max_positions=13)
    engine = Engine(runner, EngineConfig(max_running=4, max_step_tokens=16))
    old, young = [engine.submit([token] * 3, params(10))[0] for token in (1, 2)]
    drawn: list[Draw] = []
    while not engine.stats().preemptions:
        drawn += [e.draw for e in engine.step() if isinstance(e, TokenEvent) and e.id == young]
    assert len(drawn) > 1
    assert [sequence.id for sequence in engine._loop.scheduler.running] == [old]
    (later,) = engine.submit([3], params(10))
    waiting = list(engine._loop.scheduler.waiting)
    assert [sequence.id for sequence in waiting] == [young, later]
    assert waiting[0].draws == drawn
    runner.steps.clear()
    assert list(run_out(engine)) == [old, young, later]
    # It comes back with a prefill of prompt and answer, less what is still cached.
    back = next(chunk for chunks in runner.steps for chunk in chunks if chunk.sequence.id == young)
    assert back.end == 3 + len(drawn)
    assert back.draws


def test_the_oldest_is_never_preempted() -> None:
    runner = FakeRunner(num_blocks=4, block_size=4, max_positions=17)
    engine = Engine(runner, EngineConfig(max_running=8, max_step_tokens=8))
    engine.submit([1, 2], params(15), num_samples=8)
    while engine.busy:
        oldest = min(engine._loop.unfinished)
        before = engine._loop.unfinished[oldest].num_preemptions
        engine.step()
        assert (
            oldest not in engine._loop.unfinished or engine._loop.unfinished[oldest].num_preemptions == before
        )
    assert engine.stats().preemptions


@settings(max_examples=60)
@given(
    block_size=st.integers(1, 6),
    max_running=st.integers(1, 8),
    extra_rows=st.integers(0, 10),
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=10), min_size=2, max_size=8),
    max_tokens=st.integers(1, 14),
)
def test_answers_from_the_smallest_possible_cache_are_right(
    block_size: int, max_running: int, extra_rows: int, prompts: list[list[int]], max_tokens: int
) -> None:
    num_rows = max(map(len, prompts)) + max_tokens - 1
    runner = FakeRunner(block_size=block_size, num_blocks=-(-num_rows // block_size))
    config = EngineConfig(max_running=max_running, max_step_tokens=max_running + extra_rows)
    completions = Engine(runner, config).generate(prompts, params(max_tokens), num_samples=2)
    for index, completion in enumerate(completions):
        draws, reason = answer_alone(prompts[index // 2], params(max_tokens), index % 2, runner)
        assert completion.tokens == tuple(d.token for d in draws)
        assert completion.finish_reason == reason


@pytest.mark.parametrize("length", [3, 4, 5, 8, 11])
@pytest.mark.parametrize("max_step_tokens", [8, 64])
def test_samples_compute_their_prompt_once_up_to_the_last_block(length: int, max_step_tokens: int) -> None:
    runner = FakeRunner(block_size=4)
    engine = Engine(runner, EngineConfig(max_running=8, max_step_tokens=max_step_tokens))
    prompt = list(range(length % 7)) * 3
    prompt = (prompt + [6] * length)[:length]
    ids = engine.submit(prompt, params(5), num_samples=6)
    run_out(engine)
    num_shared = (length - 1) // 4 * 4
    first = ids[0]
    assert runner.rows_of(first) == list(range(length + 4))
    for id in ids[1:]:
        assert runner.rows_of(id) == list(range(num_shared, length + 4))
    assert engine.stats().cached_tokens == 5 * num_shared


def test_samples_share_within_one_step() -> None:
    runner = FakeRunner(block_size=4)
    engine = Engine(runner)
    engine.submit([1] * 10, params(2), num_samples=3)
    engine.step()
    assert spans(runner.steps[0]) == [(0, 0, 10), (1, 8, 10), (2, 8, 10)]
    assert engine.stats().blocks_used == 2 + 3


def test_a_conversation_goes_on_from_its_cached_turns() -> None:
    runner = FakeRunner(block_size=4)
    engine = Engine(runner)
    (first,) = engine.generate([[1] * 6], params(7))
    turn = [*[1] * 6, *first.tokens, 2, 3]
    (second,) = engine.generate([turn], params(3))
    assert second.usage.cached_tokens == 12  # 6 + 7 tokens have 12 rows, three full blocks
    assert runner.rows_of(1) == list(range(12, 17))


def test_salts_share_nothing() -> None:
    runner = FakeRunner(block_size=2)
    engine = Engine(runner)
    for salt, num_cached in ((b"a", 0), (b"b", 0), (b"", 0), (b"a", 8), (b"b", 8)):
        (completion,) = engine.generate([[1] * 9], params(3), salt=salt)
        assert completion.usage.cached_tokens == num_cached


def test_a_scored_text_takes_its_unscored_prefix_from_the_cache() -> None:
    runner = FakeRunner(block_size=4)
    engine = Engine(runner, EngineConfig(max_running=2, max_step_tokens=5))
    text = [1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5]
    assert engine.score(text, start=10) == scores_alone(text, 10, weights=0)
    scored = [(c.start, c.end, c.scores) for (c,) in runner.steps]
    assert scored == [(0, 5, False), (5, 9, False), (9, 11, True)]
    runner.steps.clear()
    assert engine.score(text, start=9) == scores_alone(text, 9, weights=0)
    assert [(c.start, c.end, c.scores) for (c,) in runner.steps] == [(8, 11, True)]
    runner.steps.clear()
    assert engine.score(text) == scores_alone(text, 1, weights=0)
    assert [(c.start, c.end, c.scores) for (c,) in runner.steps] == [
        (0, 5, True),
        (5, 10, True),
        (10, 11, True),
    ]


def test_a_preempted_score_keeps_what_it_knows() -> None:
    runner = FakeRunner(block_size=2, num_blocks=8)
    engine = Engine(runner, EngineConfig(max_running=2, max_step_tokens=4))
    engine.submit([6], params(14))
    text = [1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    id = engine.submit_score(text, start=2)
    for _ in range(3):
        engine.step()
    known = list(engine._loop.unfinished[id].scores)
    assert 0 < len(known) < 8
    engine._loop.scheduler.preempt_all()
    engine._loop.forget_prefixes()
    events = [event for event in iter_events(engine) if event.id == id]
    assert events == [ScoreEvent(id, scores_alone(text, 2, weights=0))]
    scored = [
        row
        for chunks in runner.steps
        for chunk in chunks
        if chunk.scores
        for row in range(chunk.start, chunk.end)
    ]
    assert scored == list(range(1, 9))


def test_admission_leaves_room_for_those_who_run() -> None:
    runner = FakeRunner(block_size=4, num_blocks=4)
    engine = Engine(runner)
    engine.submit([1] * 4, params(5))
    engine.submit([2] * 12, params(1))
    engine.step()
    assert spans(runner.steps[0]) == [(0, 0, 4)]
    run_out(engine)
    assert engine.stats().preemptions == 0


class InstantRunner(FakeRunner):
    """Draws the same token at once, so that what a step takes is the engine's own time."""

    def __init__(self) -> None:
        super().__init__(block_size=16, num_blocks=4096, max_positions=4096, vocab_size=32)

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        outcome = Outcome((Draw(5, -1.0, -1.0),))
        return [outcome] * len(chunks)


@pytest.mark.parametrize(("num_sequences", "most_s"), [(1, 60e-6), (32, 300e-6)])
def test_a_step_costs_microseconds(num_sequences: int, most_s: float) -> None:
    engine = Engine(InstantRunner(), EngineConfig(max_running=32, max_step_tokens=4096))
    engine.submit([1] * 100, SamplingParams(max_tokens=2000, stop_tokens=(1, 2)), num_samples=num_sequences)
    while engine.stats().generated_tokens < num_sequences:
        engine.step()
    seconds = []
    for _ in range(300):
        started = perf_counter()
        engine.step()
        seconds.append(perf_counter() - started)
    # The quickest: the others tell of what else the machine does.
    assert min(seconds) < most_s
