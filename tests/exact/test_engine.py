"""Nothing but the request matters: everything that an engine may do meanwhile is drawn at random.

The company that a request has, its order of arrival, the size of steps, blocks and cache (hence chunked
prefill, preemption, eviction), prefix hits, guesses of the tokens to come, neighbours that are aborted, steps
that fail, weights that are announced as new though they are the same, threads: no bit may move.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.engine import runner as engine_runner
from mohist.engine.engine import Engine, EngineConfig, FinishEvent, ScoreEvent
from mohist.engine.runner import DecoderRunner
from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.errors import ConfigError
from mohist.model.config import LightningConfig
from mohist.types import Completion, Request, SamplingParams
from tests.exact.models import CONFIGS, MAX_POSITIONS, MODELS, VOCAB, Model, decoder, engine
from tests.exact.requests import REQUESTS, SHARED, Hashing, alone, content, following

REWINDING = [
    name
    for name, config in CONFIGS.items()
    if not any(isinstance(layer.mixer, LightningConfig) for layer in config.layers)
]
"""Those whose cache lets rows be taken back; see `test_states_are_not_guessed_on` for the others."""


class StepFailure(Exception):
    pass


class FailingRunner(DecoderRunner):
    """Fails one step when told to: before any row is computed, or after all were."""

    fails: str = ""

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        fails, self.fails = self.fails, ""
        if fails != "early":
            outcomes = super().run(chunks)
        if fails:
            raise StepFailure
        return outcomes


class Guesses:
    """A `Speculation` that knows the answers, and guesses as often as it can."""

    def __init__(self, model: Model, skill: float) -> None:
        self.model, self.skill, self.random = model, skill, random.Random(0)

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        guesses = []
        for sequence, limit in zip(sequences, limits, strict=True):
            count = self.random.randint(0, min(limit, spare, 6))
            spare -= count
            request = Request(prompt=sequence.prompt, params=sequence.params, sample=sequence.sample)
            rest = alone(self.model, request).tokens[sequence.num_generated :][:count]
            guesses.append([t if self.random.random() < self.skill else (t + 1) % VOCAB for t in rest])
        return guesses

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        pass

    def forget(self, sequence: Sequence) -> None:
        pass


class Session:
    """An engine, what it was asked and what it has said."""

    def __init__(
        self,
        model: Model,
        *,
        threads: int,
        block_size: int,
        num_blocks: int,
        limits: EngineConfig,
        skill: float | None = None,
    ) -> None:
        of = decoder(model, threads)
        self.model = model
        self.runner = FailingRunner(of, of.ops, num_blocks=num_blocks, block_size=block_size)
        guesses = Guesses(model, skill) if skill is not None and self.runner.rewinds else None
        self.engine = Engine(self.runner, limits, guesses)
        self.asked: dict[int, Request] = {}
        self.texts: dict[int, tuple[Request, int]] = {}
        self.answers: dict[int, Completion] = {}
        self.scores: dict[int, tuple[float, ...] | None] = {}

    def submit(self, request: Request, num_samples: int = 1, salt: bytes = b"") -> None:
        ids = self.engine.submit(request, num_samples=num_samples, salt=salt)
        for i, id in enumerate(ids):
            self.asked[id] = dataclasses.replace(request, sample=request.sample + i)

    def follow(self, request: Request) -> None:
        self.submit(following(request, alone(self.model, request)))

    def score(self, request: Request, start: int) -> None:
        text = request.prompt + alone(self.model, request).tokens
        start = min(start, len(text) - 1)
        self.texts[self.engine.submit_score(text, start=start)] = request, start

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            try:
                events = self.engine.step()
            except StepFailure:
                continue
            self.answers |= {event.id: event.completion for event in events if isinstance(event, FinishEvent)}
            self.scores |= {event.id: event.logprobs for event in events if isinstance(event, ScoreEvent)}

    def fail(self, when: str) -> None:
        self.runner.fails = when
        self.step()

    def abort(self, which: int) -> None:
        running = sorted({*self.asked, *self.texts} - {*self.answers, *self.scores})
        if running:
            self.engine.abort(running[which % len(running)])

    def announce_weights(self) -> None:
        if not self.engine.busy:
            self.engine.update_weights()

    def check(self) -> None:
        """Let all requests end; then compare."""
        while self.engine.busy:
            self.step()
        self.engine.check()
        assert self.answers.keys() == self.asked.keys()
        for id, answer in self.answers.items():
            expected = alone(self.model, self.asked[id])
            if answer.finish_reason == "abort":
                assert rows(answer) == rows(expected)[: len(answer.tokens)]
            else:
                assert content(answer) == content(expected)
        for id, (request, start) in self.texts.items():
            if self.scores[id] is not None:
                expected_scores = text_scores(self.model, request)[start - 1 :]
                assert self.scores[id] == expected_scores


def rows(c: Completion) -> list[tuple[Any, ...]]:
    return list(zip(c.tokens, c.logprobs, c.sampled_logprobs, c.top_logprobs, strict=True))


def text_scores(model: Model, request: Request) -> tuple[float, ...]:
    """All logprobs of prompt and answer. What was sampled and what is scored is the same number."""
    answer = alone(model, request)
    scores = engine(decoder(model)).score(request.prompt + answer.tokens)
    assert scores[len(request.prompt) - 1 :] == answer.logprobs
    return scores


Action = Callable[[Session], None]


def actions(requests: list[Request]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    """A method of `Session` and its arguments."""
    asked, salts = st.sampled_from(requests), st.sampled_from([b"", b"", b"other tenant"])
    return st.one_of(
        st.tuples(st.just("submit"), st.tuples(asked, st.integers(1, 4), salts)),
        st.tuples(st.just("step"), st.tuples(st.integers(1, 12))),
        st.tuples(st.just("follow"), st.tuples(asked)),
        st.tuples(st.just("score"), st.tuples(asked, st.integers(1, 60))),
        st.tuples(st.just("abort"), st.tuples(st.integers(0, 9))),
        st.tuples(st.just("fail"), st.tuples(st.sampled_from(["early", "late"]))),
        st.tuples(st.just("announce_weights"), st.just(())),
    )


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[str, tuple[Any, ...]]]:
    requests = draw(st.lists(REQUESTS, min_size=1, max_size=3))
    return draw(st.lists(actions(requests), min_size=1, max_size=10))


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Threads, block size, blocks (enough for the longest sequence, and a few), and how much goes at once."""
    block_size = draw(st.sampled_from([16, 32, 48]))
    running = draw(st.integers(1, 8))
    step_tokens = running + draw(st.sampled_from([0, 1, 5, 15, 16, 60, 200]))
    return {
        "threads": draw(st.sampled_from([1, 2])),
        "block_size": block_size,
        "num_blocks": -(-MAX_POSITIONS // block_size) + draw(st.integers(0, 6)),
        "limits": EngineConfig(max_running=running, max_step_tokens=step_tokens),
        "skill": draw(st.sampled_from([None, 0.0, 0.5, 0.9])),
    }


@pytest.mark.parametrize("model", MODELS, ids=str)
@given(shape=shapes(), plan=plans())
@settings(max_examples=5)
def test_nothing_but_the_request_matters(
    model: Model, shape: dict[str, Any], plan: list[tuple[str, tuple[Any, ...]]]
) -> None:
    session = Session(model, **shape)
    for method, arguments in plan:
        getattr(session, method)(*arguments)
    session.check()


@pytest.mark.parametrize("skill", [None, 0.8])
@pytest.mark.parametrize("name", CONFIGS)
def test_preempted_chunked_and_shared(name: str, skill: float | None) -> None:
    """A scarce cache, on purpose: this much of everything happens at least once in this suite."""
    model = Model(name, "q8_0")
    limits = EngineConfig(max_running=6, max_step_tokens=7)
    session = Session(model, threads=2, block_size=16, num_blocks=9, limits=limits, skill=skill)
    params = SamplingParams(max_tokens=45, repetition_penalty=1.1, top_logprobs=3)
    guides = [None, Hashing(7)]
    requests = [
        Request(prompt=(*SHARED[: 16 * (own % 3)], own), params=params, guide=guides[own % 2])
        for own in range(5)
    ]
    for request in requests:
        session.submit(request, num_samples=2)
        session.step()
    session.follow(requests[0])
    session.check()
    stats = session.engine.stats()
    assert stats.preemptions > 2
    assert stats.cached_tokens > 64
    assert (stats.accepted_tokens > 20) == (skill is not None and session.runner.rewinds)


@pytest.mark.parametrize("name", REWINDING)
def test_guessed_and_eager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guesses in steps that run op by op; with penalties, which know the guesses before them."""
    model = Model(name, "q8_0")
    params = SamplingParams(max_tokens=30, frequency_penalty=0.4, repetition_penalty=1.2, top_logprobs=2)
    request = Request(prompt=SHARED[:40], params=params)
    monkeypatch.setattr(engine_runner, "MAX_TAPED_ROWS", 0)
    of = decoder(model)
    guessing = Engine(DecoderRunner(of, of.ops, num_blocks=20), speculation=Guesses(model, 0.9))
    (answer,) = guessing.generate([request])
    assert content(answer) == content(alone(model, request))
    assert answer.usage.accepted_tokens > 10


@pytest.mark.parametrize("name", CONFIGS)
def test_taped_and_eager_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding replays a tape; the same steps op by op give the same bits."""
    model = Model(name, "mixed")
    requests = [Request(prompt=SHARED[:n], params=SamplingParams(max_tokens=12, seed=n)) for n in (1, 20, 70)]
    taped = [content(c) for c in engine(decoder(model)).generate(requests)]
    eager_engine = engine(decoder(model))
    monkeypatch.setattr(engine_runner, "MAX_TAPED_ROWS", 0)
    assert [content(c) for c in eager_engine.generate(requests)] == taped


@pytest.mark.parametrize("name", CONFIGS)
def test_more_rows_than_a_tape_holds(name: str) -> None:
    model = Model(name, "q4_1")
    crowd = engine(decoder(model, 2), num_blocks=300, config=EngineConfig(max_running=150))
    params = SamplingParams(max_tokens=6, temperature=1.3, top_logprobs=2)
    answers = crowd.generate([SHARED[:40]], params, num_samples=150)
    for sample in (0, 1, 77, 149):
        request = Request(prompt=SHARED[:40], params=params, sample=sample)
        assert content(answers[sample]) == content(alone(model, request))


def test_states_are_not_guessed_on() -> None:
    of = decoder(Model("minimax", "f32"))
    with pytest.raises(ConfigError, match="cannot be taken back"):
        Engine(DecoderRunner(of, of.ops, num_blocks=20), speculation=Guesses(Model("minimax", "f32"), 0.9))


def test_engines_that_share_kernels() -> None:
    """Two models step by turns on one pool of threads and one arena."""
    models = [Model("llama", "f32"), Model("deepseek_v3", "q4_0")]
    limits = EngineConfig(max_running=3, max_step_tokens=20)
    sessions = [Session(m, threads=2, block_size=16, num_blocks=24, limits=limits) for m in models]
    for own in range(4):
        for session in sessions:
            session.submit(Request(prompt=(*SHARED[:20], own), params=SamplingParams(max_tokens=9)))
            session.step(3)
    for _ in range(30):
        for session in sessions:
            session.step()
    for session in sessions:
        session.check()
