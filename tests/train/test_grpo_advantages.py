"""Advantages against the papers' formulas, and the cases where rounding would make up a signal."""

from __future__ import annotations

import statistics
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.errors import ConfigError
from mohist.train.advantages import AdvantageConfig, Overlong, advantages, shaped_reward
from mohist.types import Completion, FinishReason, Grade, Message, Rollout, Usage

REWARDS = [[1.0, 0.0, 0.5, 0.0], [1.0, 1.0, 1.0], [0.0, 2.0]]
HINTS = get_type_hints(AdvantageConfig)
EVERY = [
    AdvantageConfig(baseline=baseline, scale=scale)
    for baseline in get_args(HINTS["baseline"])
    for scale in get_args(HINTS["scale"])
]


def flat(groups: list[list[float]]) -> list[float]:
    return [value for group in groups for value in group]


def test_grpo_divides_by_the_deviation_of_the_group() -> None:
    found = advantages(REWARDS, AdvantageConfig())
    for group, rewards in zip(found, REWARDS, strict=True):
        spread = statistics.stdev(rewards)
        wanted = [(r - statistics.mean(rewards)) / spread if spread else 0 for r in rewards]
        assert group == pytest.approx(wanted)


def test_dr_grpo_divides_by_nothing() -> None:
    found = advantages(REWARDS, AdvantageConfig(scale="none"))
    assert found == [[0.625, -0.375, 0.125, -0.375], [0, 0, 0], [-1, 1]]


def test_rloo_compares_with_the_others() -> None:
    found = advantages(REWARDS, AdvantageConfig(baseline="leave_one_out", scale="none"))
    for group, rewards in zip(found, REWARDS, strict=True):
        others = [statistics.mean(rewards[:i] + rewards[i + 1 :]) for i in range(len(rewards))]
        assert group == pytest.approx([r - b for r, b in zip(rewards, others, strict=True)])


def test_reinforce_pp_with_and_without_a_group_baseline() -> None:
    pooled = flat(REWARDS)
    plain = advantages(REWARDS, AdvantageConfig(baseline="batch", scale="batch"))
    wanted = [(r - statistics.mean(pooled)) / statistics.stdev(pooled) for r in pooled]
    assert flat(plain) == pytest.approx(wanted)
    differences = [r - statistics.mean(group) for group in REWARDS for r in group]
    grouped = advantages(REWARDS, AdvantageConfig(baseline="group", scale="batch"))
    assert flat(grouped) == pytest.approx([d / statistics.stdev(differences) for d in differences])
    assert [len(group) for group in plain] == [len(group) for group in grouped] == [4, 3, 2]


@pytest.mark.parametrize("config", EVERY, ids=str)
@pytest.mark.parametrize("parts", [[0.1], [0.1, 0.2], [0.7, 0.1, 0.3], [1e6, 0.1]])
def test_equal_rewards_that_were_added_up_differently_are_no_signal(
    config: AdvantageConfig, parts: list[float]
) -> None:
    sums = [sum(parts), sum(reversed(parts)), sum(parts) * (1 + 2e-16), sum(parts), sum(parts)]
    found = advantages([sums, sums[::-1]], config)
    assert flat(found) == [0.0] * 10


def test_zero_and_noise_around_it_are_equal() -> None:
    assert advantages([[0.0, 0.1 + 0.2 - 0.3, 0.0]], AdvantageConfig()) == [[0, 0, 0]]


@pytest.mark.parametrize("config", EVERY, ids=str)
def test_a_lone_answer_has_nothing_to_compare_with(config: AdvantageConfig) -> None:
    assert advantages([[1.0]], config) == [[0.0]]


@pytest.mark.parametrize("config", EVERY, ids=str)
@given(
    rewards=st.lists(st.lists(st.integers(-8, 8), min_size=2, max_size=6), min_size=1, max_size=4),
    shift=st.integers(-4, 4),
)
def test_a_constant_more_for_everyone_changes_nothing(
    config: AdvantageConfig, rewards: list[list[int]], shift: int
) -> None:
    eighths = [[r / 8 for r in group] for group in rewards]
    shifted = [[r + shift for r in group] for group in eighths]
    assert flat(advantages(shifted, config)) == pytest.approx(flat(advantages(eighths, config)), abs=1e-12)


def rollout(length: int, reason: FinishReason = "stop", reward: float = 1.0) -> Rollout:
    none: Any = (0,) * length
    completion = Completion(
        tokens=none,
        logprobs=none,
        sampled_logprobs=none,
        top_logprobs=((),) * length,
        finish_reason=reason,
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=length),
    )
    message = Message(role="assistant")
    return Rollout(sample=0, completion=completion, message=message, grade=Grade(reward=reward))


def test_the_soft_punishment_starts_at_the_margin() -> None:
    soft = Overlong(margin_tokens=4)
    rewards = {n: shaped_reward(rollout(n), soft, max_tokens=20) for n in (1, 16, 17, 18, 20)}
    assert rewards == {1: 1, 16: 1, 17: 0.75, 18: 0.5, 20: 0}
    assert shaped_reward(rollout(20, "length"), soft, max_tokens=20) == 0
    assert shaped_reward(rollout(20, "length"), Overlong(), max_tokens=20) == 1


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ConfigError, match="margin_tokens = -1"):
        Overlong(margin_tokens=-1)
