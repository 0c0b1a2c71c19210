"""The engine under every mix of arrivals, guesses, aborts, failures, chunks and caches, one rule at a time.

Whatever happens, each answer equals that of its request run alone, and every request ends.
"""

from __future__ import annotations

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mohist.engine.engine import Engine, EngineConfig, Event, FinishEvent, ScoreEvent, TokenEvent
from mohist.engine.sequence import Draw
from mohist.types import SamplingParams

from .fake_runner import FakeRunner, Guesses, RunnerFailure, answer_alone, completion_of, scores_alone

VOCAB_SIZE = 5
MAX_POSITIONS = 24
SALTS = st.sampled_from([b"", b"a"])
# Few different tokens at the start and many lengths: prefixes are often shared.
PROMPTS = st.builds(
    lambda ones, twos: [1] * ones + [2] * twos, st.integers(0, 12), st.integers(1, MAX_POSITIONS - 13)
)
PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.sampled_from([1, 2, 5, 30]),
    seed=st.integers(0, 2),
    stop_tokens=st.sampled_from([(), (4,)]),
    top_logprobs=st.integers(0, 1),
)


class EngineMachine(RuleBasedStateMachine):
    @initialize(block_size=st.integers(1, 5), spare_blocks=st.integers(0, 12), data=st.data())
    def make(self, block_size: int, spare_blocks: int, data: st.DataObject) -> None:
        self.runner = FakeRunner(
            block_size=block_size,
            num_blocks=-(-(MAX_POSITIONS - 1) // block_size) + spare_blocks,
            max_positions=MAX_POSITIONS,
            vocab_size=VOCAB_SIZE,
        )
        max_running = data.draw(st.integers(1, 6))
        config = EngineConfig(
            max_running=max_running,
            max_step_tokens=data.draw(st.integers(max_running, max_running + 12)),
        )
        guesses = None
        if data.draw(st.booleans()):
            guesses = Guesses(self.runner, data.draw(st.integers(0, 99)), data.draw(st.floats(0, 1)))
        self.engine = Engine(self.runner, config, guesses)
        self.requests: dict[int, tuple[list[int], SamplingParams, int]] = {}
        self.texts: dict[int, tuple[list[int], int]] = {}
        self.drawn: dict[int, list[Draw]] = {}
        self.aborted: set[int] = set()

    @rule(prompt=PROMPTS, params=PARAMS, num_samples=st.integers(1, 3), salt=SALTS)
    def submit(self, prompt: list[int], params: SamplingParams, num_samples: int, salt: bytes) -> None:
        ids = self.engine.submit(prompt, params, num_samples=num_samples, salt=salt)
        for sample, id in enumerate(ids):
            self.requests[id] = (prompt, params, sample)
            self.drawn[id] = []

    @rule(prompt=PROMPTS, start=st.integers(1, MAX_POSITIONS), salt=SALTS)
    def submit_score(self, prompt: list[int], start: int, salt: bytes) -> None:
        tokens = [*prompt, 3]
        start = min(start, len(prompt))
        self.texts[self.engine.submit_score(tokens, start=start, salt=salt)] = (tokens, start)

    @rule(num_steps=st.integers(1, 4))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.take(self.engine.step())

    @precondition(lambda self: self.unended())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.unended())))
        assert self.engine.abort(id)
        assert not self.engine.abort(id)
        self.aborted.add(id)

    @precondition(lambda self: self.unended())
    @rule(num_rows=st.integers(0, 10))
    def fail(self, num_rows: int) -> None:
        self.runner.fail_after(num_rows)
        try:
            self.take(self.engine.step())
        except RunnerFailure:
            self.engine.check()
        self.runner.rows_before_failure = None

    @precondition(lambda self: not self.engine.busy)
    @rule()
    def change_weights(self) -> None:
        self.runner.weights += 1
        self.engine.update_weights()

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        # The oldest sequence moves by a row every step and starts over only when the runner fails.
        num_steps = MAX_POSITIONS * (len(self.requests) + len(self.texts)) + 1
        while self.engine.busy:
            assert num_steps, "a request does not end"
            num_steps -= 1
            self.take(self.engine.step())
            self.engine.check()
        assert not self.requests
        assert not self.texts
        stats = self.engine.stats()
        assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
        rows = [sum(chunk.num_rows for chunk in chunks) for chunks in self.runner.steps]
        assert max(rows, default=0) <= self.engine.config.max_step_tokens
        assert max(map(len, self.runner.steps), default=0) <= self.engine.config.max_running
        for chunks in self.runner.steps:
            ids = [chunk.sequence.id for chunk in chunks]
            assert ids == sorted(ids)

    def unended(self) -> set[int]:
        return {*self.requests, *self.texts} - self.aborted

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, TokenEvent):
                self.drawn[event.id].append(event.draw)
            elif isinstance(event, FinishEvent):
                self.check_answer(event)
            else:
                self.check_scores(event)

    def check_answer(self, event: FinishEvent) -> None:
        prompt, params, sample = self.requests.pop(event.id)
        draws, reason = answer_alone(prompt, params, sample, self.runner)
        if event.id in self.aborted:
            draws, reason = draws[: len(self.drawn[event.id])], "abort"
            self.aborted.remove(event.id)
        assert self.drawn.pop(event.id) == draws
        usage = event.completion.usage
        assert event.completion == completion_of(draws, reason, prompt, usage)
        assert usage.cached_tokens < len(prompt)
        assert usage.accepted_tokens <= min(usage.drafted_tokens, max(len(draws) - 1, 0))

    def check_scores(self, event: ScoreEvent) -> None:
        tokens, start = self.texts.pop(event.id)
        if event.id in self.aborted:
            self.aborted.remove(event.id)
            assert event.logprobs is None
        else:
            assert event.logprobs == scores_alone(tokens, start, weights=self.runner.weights)


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(
    max_examples=200,
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
