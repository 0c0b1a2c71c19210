from __future__ import annotations

import pytest

from mohist.errors import ConfigError
from mohist.serve.limits import KeyLimits, Limiter, LimitError


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock)


def refusal(limiter: Limiter, limits: KeyLimits, key_id: str = "a") -> LimitError:
    with pytest.raises(LimitError) as caught:
        limiter.enter(key_id, limits)
    return caught.value


def test_a_minute_of_requests_and_then_one_as_each_is_earned(limiter: Limiter, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=4)
    for _ in range(4):
        limiter.enter("a", limits)
    assert refusal(limiter, limits).retry_after_s == 15
    clock.now_s += 14.5
    error = refusal(limiter, limits)
    assert (str(error), error.retry_after_s) == ("this key may use 4 requests a minute, and has used them", 1)
    clock.now_s += 0.5
    limiter.enter("a", limits)
    refusal(limiter, limits)
    clock.now_s += 3600
    for _ in range(4):
        limiter.enter("a", limits)
    refusal(limiter, limits)


def test_waiting_as_long_as_told_is_enough(limiter: Limiter, clock: Clock) -> None:
    limits = KeyLimits(requests_per_minute=7, tokens_per_minute=90)
    for round_number in range(50):
        limiter.charge("a", 37)
        try:
            limiter.enter("a", limits)
        except LimitError as error:
            clock.now_s += error.retry_after_s
            limiter.enter("a", limits)
        limiter.leave("a")
        clock.now_s += round_number % 3


def test_tokens_are_charged_afterwards_and_debts_are_paid(limiter: Limiter, clock: Clock) -> None:
    limits = KeyLimits(tokens_per_minute=60)
    limiter.enter("a", limits)
    limiter.charge("a", 100)
    assert limiter.headers("a")["x-ratelimit-remaining-tokens"] == "0"
    assert refusal(limiter, limits).retry_after_s == 41
    clock.now_s += 41
    limiter.enter("a", limits)


def test_requests_at_once(limiter: Limiter) -> None:
    limits = KeyLimits(concurrent_requests=2)
    limiter.enter("a", limits)
    limiter.enter("a", limits)
    assert refusal(limiter, limits).retry_after_s == 1
    limiter.leave("a")
    limiter.enter("a", limits)
    refusal(limiter, limits)


def test_a_refused_request_takes_nothing(limiter: Limiter) -> None:
    limits = KeyLimits(requests_per_minute=5, concurrent_requests=1)
    limiter.enter("a", limits)
    for _ in range(9):
        refusal(limiter, limits)
    assert limiter.headers("a")["x-ratelimit-remaining-requests"] == "4"


def test_keys_do_not_share_and_no_limit_is_no_limit(limiter: Limiter) -> None:
    limits = KeyLimits(requests_per_minute=1, tokens_per_minute=1, concurrent_requests=1)
    limiter.enter("a", limits)
    limiter.charge("a", 10)
    limiter.enter("b", limits)
    for _ in range(1000):
        limiter.enter("c", KeyLimits())
        limiter.charge("c", 10**9)
    assert limiter.headers("c") == limiter.headers("never seen") == {}


def test_limits_that_change_keep_the_share_that_is_left(limiter: Limiter, clock: Clock) -> None:
    for _ in range(30):
        limiter.enter("a", KeyLimits(requests_per_minute=40, tokens_per_minute=100))
    limiter.charge("a", 200)
    wider = KeyLimits(requests_per_minute=8, tokens_per_minute=1000)
    assert refusal(limiter, wider).retry_after_s == 61, "a minute's debt is one whatever a minute holds"
    assert limiter.headers("a")["x-ratelimit-remaining-requests"] == "2"
    clock.now_s += 61
    limiter.enter("a", wider)
    most = KeyLimits(concurrent_requests=32)
    limiter.enter("a", most)
    assert limiter.headers("a") == {}
    assert str(refusal(limiter, most)) == "this key may have 32 requests at once, and they are running"
    limiter.enter("a", KeyLimits(requests_per_minute=5))
    assert limiter.headers("a")["x-ratelimit-remaining-requests"] == "4"


def test_the_customary_headers(limiter: Limiter, clock: Clock) -> None:
    limiter.enter("a", KeyLimits(requests_per_minute=10, tokens_per_minute=600))
    limiter.charge("a", 90)
    clock.now_s += 3
    assert limiter.headers("a") == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "3.000s",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "540",
        "x-ratelimit-reset-tokens": "6.000s",
    }


@pytest.mark.parametrize("value", [0, -1, 2**53])
def test_limits_are_positive(value: int) -> None:
    with pytest.raises(ConfigError, match=f"tokens_per_minute = {value}: at least 1"):
        KeyLimits(tokens_per_minute=value)
