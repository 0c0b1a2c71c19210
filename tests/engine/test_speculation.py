"""Guesses never change an answer; they are tried where they pay, and let be where they do not."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

import pytest

from mohist.engine import speculation
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.lookup import PromptLookup
from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.engine.speculation import MAX_LOSS, PATIENCE_STEPS, Speculator
from mohist.engine.step_times import StepTimes
from mohist.types import SamplingParams

from .fake_runner import FakeRunner, Guesses, answer_alone

PARAMS = SamplingParams(max_tokens=40)


def sequence_of(tokens: Seq[int]) -> Sequence:
    return Sequence(id=0, prompt=tuple(tokens), params=PARAMS, max_length=1000)


def test_right_guesses_take_few_steps_and_keep_the_prefix_cache() -> None:
    prompt = [1, 2, 3]
    runner = FakeRunner(block_size=4)
    engine = Engine(runner, speculation=Guesses(runner, seed=0, skill=1.0))
    (answer,) = engine.generate([prompt], PARAMS)
    draws, reason = answer_alone(prompt, PARAMS, 0, runner)
    assert answer.tokens == tuple(draw.token for draw in draws)
    assert answer.finish_reason == reason
    usage = answer.usage
    assert usage.drafted_tokens == usage.accepted_tokens > 20
    assert len(runner.steps) == len(draws) - usage.accepted_tokens
    assert runner.rows_of(0) == list(range(len(prompt) + len(draws) - 1))
    stats = engine.stats()
    assert (stats.drafted_tokens, stats.accepted_tokens) == (usage.drafted_tokens, usage.accepted_tokens)
    (after,) = engine.generate([[*prompt, *answer.tokens, 1]], PARAMS)
    assert after.usage.cached_tokens == (len(prompt) + len(draws) - 1) // 4 * 4


def test_rows_of_wrong_guesses_are_written_over() -> None:
    runner = FakeRunner(block_size=2)
    engine = Engine(runner, speculation=Guesses(runner, seed=1, skill=0.0))
    answers = engine.generate([[1, 2, 3], [4]], PARAMS)
    for prompt, answer in zip([[1, 2, 3], [4]], answers, strict=True):
        draws, _ = answer_alone(prompt, PARAMS, 0, runner)
        assert answer.tokens == tuple(draw.token for draw in draws)
        assert answer.usage.drafted_tokens > 2 * answer.usage.accepted_tokens


def test_nobody_is_preempted_for_a_guess() -> None:
    runner = FakeRunner(block_size=2, num_blocks=10, max_positions=10)
    engine = Engine(runner, EngineConfig(max_running=2), Guesses(runner, seed=0, skill=1.0))
    engine.generate([[1], [2]], SamplingParams(max_tokens=9))
    assert engine.stats().preemptions == 0
    assert engine.stats().accepted_tokens > 5


def test_lookup_goes_on_as_it_did_before() -> None:
    lookup = PromptLookup()
    text = [7, 1, 2, 3, 4, 5, 6, 8, 9, 1, 2, 3]
    assert lookup.propose([sequence_of(text)], [4]) == [[4, 5, 6, 8]]
    assert lookup.propose([sequence_of(text)], [0]) == [[]]
    assert lookup.propose([sequence_of([1, 2, 3, 4])], [4]) == [[]]
    assert lookup.propose([sequence_of([1])], [4]) == [[]]


def test_lookup_prefers_the_longest_and_then_the_latest_agreement() -> None:
    propose = PromptLookup().propose
    assert propose([sequence_of([1, 2, 3, 10, 0, 2, 3, 20, 1, 2, 3])], [1]) == [[10]]
    assert propose([sequence_of([1, 2, 3, 10, 1, 2, 3, 20, 1, 2, 3])], [1]) == [[20]]


def test_lookup_takes_a_period_for_endless() -> None:
    assert PromptLookup().propose([sequence_of([9, 1, 2, 3, 1, 2, 3])], [7]) == [[1, 2, 3, 1, 2, 3, 1]]


def test_lookup_follows_a_sequence_as_it_grows() -> None:
    lookup, sequence = PromptLookup(), sequence_of([1, 2, 3])
    draw = random.Random(0)
    for _ in range(200):
        (guesses,) = lookup.propose([sequence], [3])
        assert [guesses] == PromptLookup().propose([sequence], [3])
        sequence.tokens.append(draw.randrange(4))


def test_times_of_sizes_that_were_not_measured() -> None:
    times = StepTimes()
    assert times.of(1) is times.at_most(1) is None
    for seconds in (9.0, 1.1, 5.0):
        times.add(1, seconds)
    assert times.of(1) == 1.1
    assert times.of(12) == pytest.approx(2.2)
    assert times.at_most(12) == pytest.approx(1.1 * 12)
    times.add(9, 3.1)
    assert times.of(9) == times.at_most(9) == 3.1
    assert times.of(5) == times.at_most(5) == pytest.approx(2.1)
    for _ in range(StepTimes.FORGOTTEN + 1):
        times.add(1, 1.1)
    assert times.of(9) == pytest.approx(1.1 * 19 / 11)


class TimedRunner(FakeRunner):
    """Steps that take a second and `row_s` for each further row; a drafter that is as often right as told.

    To tell it of a step takes `watch_s`, to read a token that it has not seen `read_s`.
    """

    def __init__(self, row_s: float, skill: float, watch_s: float = 0.0, read_s: float = 0.0) -> None:
        super().__init__(max_positions=2000, num_blocks=2000, vocab_size=1000)
        self.row_s, self.watch_s, self.read_s, self.now = row_s, watch_s, read_s, 0.0
        self.num_read: dict[int, int] = {}
        self.rests: list[bool] = []
        self.truth = Guesses(self, seed=0, skill=skill)

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        self.now += 1 + self.row_s * (sum(chunk.num_rows for chunk in chunks) - 1)
        return super().run(chunks)

    def backlog(self, sequence: Sequence) -> int:
        return len(sequence.tokens) - self.num_read.get(sequence.id, 0) if self.read_s else 0

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome]) -> None:
        assert not self.rests or not self.rests[-1]
        self.now += self.watch_s

    def propose(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[list[int]]:
        for sequence, count in zip(sequences, counts, strict=True):
            if count:
                self.now += self.read_s * self.backlog(sequence)
                self.num_read[sequence.id] = len(sequence.tokens)
        return [self.truth.guesses(*pair) for pair in zip(sequences, counts, strict=True)]

    def forget(self, sequence: Sequence) -> None:
        pass

    def rest(self, rests: bool) -> None:
        self.rests.append(rests)

    def clock(self) -> float:
        return self.now


def seconds(row_s: float, skill: float | None, *, num_samples: int = 1, max_tokens: int = 120) -> float:
    """What an answer takes with a drafter of this skill, or with none."""
    runner = TimedRunner(row_s, skill or 0.0)
    speculator = None if skill is None else Speculator(runner, runner.clock)
    engine = Engine(runner, EngineConfig(), speculator, runner.clock)
    engine.generate([[1, 2, 3, 4]], SamplingParams(max_tokens=max_tokens), num_samples=num_samples)
    return runner.now


@pytest.mark.parametrize("num_samples", [1, 3])
def test_good_guesses_pay(num_samples: int) -> None:
    assert seconds(0.05, 0.95, num_samples=num_samples) < 0.6 * seconds(0.05, None, num_samples=num_samples)


@pytest.mark.parametrize("num_samples", [1, 5])
@pytest.mark.parametrize("max_tokens", [10, 120])
@pytest.mark.parametrize("row_s", [0.02, 0.2, 1.0])
@pytest.mark.parametrize("skill", [0.0, 0.2, 0.6])
def test_guesses_never_cost_more_than_they_may(
    skill: float, row_s: float, max_tokens: int, num_samples: int
) -> None:
    plain = seconds(row_s, None, num_samples=num_samples, max_tokens=max_tokens)
    assert (
        seconds(row_s, skill, num_samples=num_samples, max_tokens=max_tokens) <= (1 + 1.1 * MAX_LOSS) * plain
    )


def watched(watch_s: float, skill: float) -> tuple[float, TimedRunner]:
    """Seconds of a long answer, with a drafter that takes time even where it guesses nothing."""
    runner = TimedRunner(0.2, skill, watch_s)
    engine = Engine(runner, EngineConfig(), Speculator(runner, runner.clock), runner.clock)
    engine.generate([[1, 2, 3, 4]], SamplingParams(max_tokens=390))
    return runner.now, runner


@pytest.mark.parametrize("watch_s", [0.1, 0.5, 2.0])
def test_what_does_not_pay_rests(watch_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it guesses nothing. It is tried again when what it took is made up for."""
    monkeypatch.setattr(speculation, "REST_LOSS", 0.02)  # else it rests for longer than the answer takes
    monkeypatch.setattr(speculation, "PATIENCE_STEPS", 4)
    plain, guessing = seconds(0.2, None, max_tokens=390), watched(watch_s, skill=0.0)
    assert guessing[0] <= plain * (1 + MAX_LOSS) + 4 + 3 * watch_s
    rests = guessing[1].rests
    assert len(rests) >= 3
    assert rests == [index % 2 == 0 for index in range(len(rests))]


def test_what_pays_does_not_rest() -> None:
    taken, runner = watched(0.1, skill=0.95)
    assert taken < 0.7 * seconds(0.2, None, max_tokens=390)
    assert runner.rests == []


def answered(skill: float | None, max_tokens: int) -> float:
    """Seconds of twenty answers after prompts that the drafter has to read first, which takes ten steps."""
    runner = TimedRunner(0.05, skill or 0.0, read_s=0.1)
    speculator = None if skill is None else Speculator(runner, runner.clock)
    engine = Engine(runner, EngineConfig(), speculator, runner.clock)
    for number in range(20):
        engine.generate([[number, *range(99)]], SamplingParams(max_tokens=max_tokens))
    return runner.now


def test_reading_a_prompt_is_an_investment() -> None:
    assert answered(0.95, max_tokens=100) < 0.7 * answered(None, max_tokens=100)


@pytest.mark.parametrize(("skill", "max_tokens"), [(0.0, 100), (0.3, 100), (0.95, 5)])
def test_reading_that_does_not_pay_off_is_left(skill: float, max_tokens: int) -> None:
    plain = answered(None, max_tokens)
    assert answered(skill, max_tokens) <= (1 + 1.1 * MAX_LOSS) * plain + 10 + PATIENCE_STEPS
