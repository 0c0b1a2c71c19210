"""The work of the training benchmark: equal for both trainers, and as the benchmark says it is."""

from __future__ import annotations

import statistics

from bench.grpo import goals
from bench.measure import Series
from bench.rl_work import GROUP_SIZE, PROBLEMS, WORKLOADS, lengths, question, reward


def test_uniform_answers_have_one_length() -> None:
    assert lengths(WORKLOADS["uniform"], 3) == [128] * PROBLEMS * GROUP_SIZE


def test_realistic_lengths_are_skewed_with_a_mean_of_a_third_of_the_limit() -> None:
    work = WORKLOADS["realistic"]
    found = lengths(work, 0)
    assert abs(statistics.mean(found) - work.limit / 3) < 2
    assert statistics.median(found) < statistics.mean(found)
    assert max(found) == work.limit
    assert min(found) >= 1
    assert lengths(work, 0) == found
    assert lengths(work, 1) != found
    assert sorted(lengths(work, 1)) == sorted(found)


def test_a_third_of_the_realistic_groups_has_no_signal() -> None:
    work = WORKLOADS["realistic"]
    silent = [len({reward(work, i, j) for j in range(GROUP_SIZE)}) == 1 for i in range(24 * PROBLEMS)]
    assert sum(silent) == len(silent) / 3
    assert all(2 <= sum(silent[i : i + PROBLEMS]) <= 3 for i in range(0, len(silent), PROBLEMS))
    uniform = WORKLOADS["uniform"]
    assert all({reward(uniform, i, j) for j in range(GROUP_SIZE)} == {0.0, 1.0} for i in range(30))


def test_questions_are_long_enough_and_different() -> None:
    words = [f" w{i}" for i in range(50)]
    texts = [question(words, WORKLOADS["uniform"], i) for i in range(20)]
    assert len(set(texts)) == 20
    assert all(len(text.split()) == 24 for text in texts)
    assert question(words, WORKLOADS["uniform"], 7) == texts[7]


def test_goals_compare_steps_a_second_and_memory() -> None:
    series = {"Mohist": Series("Mohist", (2.0, 2.0)), "TRL": Series("TRL", (6.0, 8.0))}
    speed, memory = goals("realistic", series, {"Mohist": 50, "TRL": 100})
    assert speed.measured == (0.5 / statistics.median([1 / 6, 1 / 8]))
    assert (speed.low, speed.high, speed.met) == (3.0, 4.0, False)
    assert (memory.measured, memory.met) == (0.5, True)
