"""Guides: what they allow is all that is drawn, and what goes wrong in one ends its own answer only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mohist.engine.engine import Engine, EngineConfig, FinishEvent
from mohist.errors import RequestError
from mohist.types import Completion, GuideFactory, Request, SamplingParams

from .fake_runner import FakeRunner

PARAMS = SamplingParams(max_tokens=6)
Rule = Callable[[list[int]], bytes | int | None]


class Ruled:
    """A guide by a rule over the tokens so far."""

    def __init__(self, rule: Rule) -> None:
        self.rule, self.tokens = rule, list[int]()

    def allowed(self) -> bytes | int | None:
        return self.rule(self.tokens)

    def push(self, token: int, /) -> None:
        self.tokens.append(token)


def guided(rule: Rule, own: int = 1) -> Request:
    return Request(prompt=(own, 2), params=PARAMS, guide=lambda: Ruled(rule))


def only(*tokens: int) -> bytes:
    return sum(1 << token for token in tokens).to_bytes(1, "little")


def answer(rule: Rule) -> Completion:
    return Engine(FakeRunner()).generate([guided(rule)])[0]


def test_only_what_is_allowed_is_drawn() -> None:
    completion = answer(lambda tokens: only(1, 5))
    assert set(completion.tokens) == {1, 5}
    assert completion.finish_reason == "length"
    assert answer(lambda tokens: len(tokens)).tokens == (0, 1, 2, 3, 4, 5)
    assert answer(lambda tokens: None) == Engine(FakeRunner()).generate([[1, 2]], PARAMS)[0]


def test_masks_may_be_short_and_longer_than_the_vocabulary() -> None:
    wide = Engine(FakeRunner(vocab_size=30))
    assert set(wide.generate([guided(lambda tokens: only(3))])[0].tokens) == {3}
    narrow = Engine(FakeRunner(vocab_size=7))
    assert max(narrow.generate([guided(lambda tokens: b"\xff" * 9)])[0].tokens) < 7


def test_each_sample_has_its_own_guide() -> None:
    made: list[Ruled] = []

    def make() -> Ruled:
        made.append(Ruled(lambda tokens: None))
        return made[-1]

    completions = Engine(FakeRunner()).generate(
        [Request(prompt=(1,), params=PARAMS, guide=make)], num_samples=3
    )
    # the last token ends the answer, so nobody asks what comes next
    assert [tuple(guide.tokens) for guide in made] == [c.tokens[:-1] for c in completions]


def broken(tokens: list[int]) -> None:
    if len(tokens) == 2:
        raise ZeroDivisionError("by design")


def refusing(tokens: list[int]) -> None:
    if len(tokens) == 2:
        raise RequestError("enough")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (broken, "the guide failed: ZeroDivisionError: by design"),
        (refusing, "enough"),
        (lambda tokens: only() if len(tokens) == 2 else None, "no token may come next"),
        (
            lambda tokens: 7 if len(tokens) == 2 else None,
            "a guide wants token 7, outside the vocabulary 0..6",
        ),
        (lambda tokens: "all" if len(tokens) == 2 else None, "the guide failed: TypeError"),
    ],
)
def test_a_failing_guide_ends_its_own_answer(rule: Rule, error: str) -> None:
    engine = Engine(FakeRunner(num_blocks=6), EngineConfig(max_running=3, max_step_tokens=3))
    (failing,) = engine.submit(guided(rule))
    others = engine.submit([1, 2], PARAMS, num_samples=2)
    completions: dict[int, Completion] = {}
    while engine.busy:
        completions |= {e.id: e.completion for e in engine.step() if isinstance(e, FinishEvent)}
        engine.check()
    assert completions[failing].finish_reason == "error"
    assert completions[failing].error.startswith(error)
    assert len(completions[failing].tokens) == 2
    expected = Engine(FakeRunner()).generate([[1, 2]], PARAMS, num_samples=2)
    assert [completions[id].tokens for id in others] == [c.tokens for c in expected]
    assert engine.stats().blocks_used == 0


def test_a_guide_that_cannot_begin_is_refused() -> None:
    engine = Engine(FakeRunner())

    def rule(tokens: list[int]) -> None:
        raise RequestError("no such schema")

    factory: GuideFactory = lambda: Ruled(rule)  # noqa: E731
    with pytest.raises(RequestError, match="no such schema"):
        engine.generate([[3], Request(prompt=(1,), guide=factory)], None)
    assert not engine.busy


def test_a_guide_survives_preemption() -> None:
    def rule(tokens: list[int]) -> bytes:
        return only(len(tokens) % 7, (3 * sum(tokens) + 1) % 7)

    params = PARAMS.replace(max_tokens=12)
    requests = [Request(prompt=(own, 2), params=params, guide=lambda: Ruled(rule)) for own in range(4)]
    scarce = Engine(FakeRunner(num_blocks=7), EngineConfig(max_running=4, max_step_tokens=4))
    completions = scarce.generate(requests)
    assert scarce.stats().preemptions > 0
    assert [c.tokens for c in completions] == [
        Engine(FakeRunner()).generate([request])[0].tokens for request in requests
    ]
