"""Steps of one request: how whoever drives the engine finds out which request a step fails on."""

from __future__ import annotations

import pytest

from mohist.engine.engine import Engine, EngineConfig, FinishEvent, ScoreEvent
from mohist.engine.sequence import Chunk, Outcome
from mohist.types import SamplingParams

from .fake_runner import FakeRunner, answer_alone, scores_alone

PARAMS = SamplingParams(max_tokens=6, seed=3)


class Poisoned(FakeRunner):
    """Fails on every step that draws for a sequence with the token 6 in its prompt."""

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        if any(chunk.draws and 6 in chunk.sequence.prompt for chunk in chunks):
            raise ValueError("poison")
        return super().run(chunks)


@pytest.mark.parametrize("options", [EngineConfig(), EngineConfig(max_running=2, max_step_tokens=3)])
def test_only_the_request_that_fails_is_lost(options: EngineConfig) -> None:
    prompts = [[1, 2, 3, 4, 5], [1, 2, 6, 4], [2], [1, 2, 3, 4, 1, 1], [6]]
    engine = Engine(Poisoned(block_size=2), options)
    ids = [engine.submit(prompt, PARAMS)[0] for prompt in prompts]
    text = [3, 1, 4, 1, 5]
    scored = engine.submit_score(text)
    found, failed = {}, set()
    while engine.busy:
        try:
            events = engine.step()
        except ValueError:
            events = []
            for id in [*ids, scored]:
                if id in failed or id in found:
                    continue
                try:
                    events += engine.step_alone(id)
                except ValueError:
                    failed.add(id)
                    engine.abort(id)
                engine.check()
        found |= {event.id: event for event in events if isinstance(event, FinishEvent | ScoreEvent)}
    assert failed == {ids[1], ids[4]}
    for id, prompt in zip(ids, prompts, strict=True):
        if id not in failed:
            draws, reason = answer_alone(prompt, PARAMS, 0, FakeRunner())
            event = found[id]
            assert isinstance(event, FinishEvent)
            assert event.completion.tokens == tuple(draw.token for draw in draws)
            assert event.completion.finish_reason == reason
    assert found[scored] == ScoreEvent(scored, scores_alone(text, 1, weights=0))


def test_others_wait_meanwhile_and_lose_nothing() -> None:
    runner = FakeRunner(block_size=2)
    engine = Engine(runner)
    first, second = (engine.submit([1, 2, 3, token], PARAMS)[0] for token in (4, 5))
    engine.step()
    rows = len(runner.rows_of(second))
    events = engine.step_alone(first)
    engine.check()
    assert [event.id for event in events] == [first]
    assert len(runner.rows_of(second)) == rows
    assert engine.stats().running == 0
    while engine.busy:
        events += engine.step()
        engine.check()
    answers = {event.id: event.completion.tokens for event in events if isinstance(event, FinishEvent)}
    for id, token in ((first, 4), (second, 5)):
        draws, _ = answer_alone([1, 2, 3, token], PARAMS, 0, FakeRunner())
        assert answers[id] == tuple(draw.token for draw in draws)
