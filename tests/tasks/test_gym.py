"""reasoning-gym: its problems are the same every time, and an answer that is a program gets it nowhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.errors import ConfigError, TaskError
from mohist.tasks.library import gym
from mohist.tasks.library.gym import GymConfig, may_call
from mohist.tasks.sandbox.jail import no_jail
from mohist.tasks.task import Task
from mohist.types import Grade, Message, Problem

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="NOT TESTED: reasoning-gym is not installed: pip install 'mohist[gym]'",
)


@pytest.fixture(scope="module")
def countdown() -> Iterator[Task]:
    if reason := no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    task = GymConfig(generator="countdown", settings=("min_numbers=3", "max_numbers=3"), cpu_s=2).make()
    yield task
    task.close()


def grade(task: Task, problem: Problem, answer: str) -> Grade:
    return task.grade(problem, Message(role="assistant", content=f"<answer>{answer}</answer>"))


@needs_gym
def test_problems_and_answers(countdown: Task) -> None:
    problems = countdown.problems("train", 8, seed=1)
    assert problems == countdown.problems("train", 9, seed=1)[:8]
    assert problems != countdown.problems("train", 8, seed=2)
    held_out = countdown.problems("test", 4, seed=1)
    assert all(countdown.split_of(problem) == "test" for problem in held_out)
    assert not {problem.question for problem in problems} & {problem.question for problem in held_out}
    for problem in problems:
        assert grade(countdown, problem, problem.answer["answer"]).reward == 1.0
        assert grade(countdown, problem, "1 + 1").reward == 0.0
        assert grade(countdown, problem, "banana").note.startswith("not ")


ATTACKS = (
    "__import__('os').system('true')",
    "exec('raise SystemExit')",
    "(print)(1)",
    "().__class__",
    "f'{exit()}'",
    "[x for x in iter(int, 1)]",
    "open('/etc/passwd').read()",
    "1 .real",
)


@needs_gym
def test_code_for_an_answer_is_refused(countdown: Task) -> None:
    problem = countdown.problems("train", 1)[0]
    for attack in ATTACKS:
        assert grade(countdown, problem, attack).note == "it holds Python that could call something", attack
    assert grade(countdown, problem, "9**9**9**9").note.startswith("scoring it takes more than")


@needs_gym
def test_mistakes_in_a_config_are_named() -> None:
    for generator, settings, message in (
        ("chainsum", {}, "task.generator = 'chainsum': no such generator; did you mean chain_sum"),
        ("chain_sum", {"min_trems": 2}, "min_trems: no such setting of chain_sum; did you mean min_terms"),
        ("chain_sum", {"size": 2}, "task.settings: size: no such setting of chain_sum"),
        ("chain_sum", {"min_terms": 0}, "task.settings of chain_sum: "),
    ):
        with pytest.raises(ConfigError, match=message):
            gym.start({"generator": generator, "settings": settings})


@needs_gym
def test_a_scorer_that_rewards_nonsense_is_refused() -> None:
    if reason := no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    with pytest.raises(
        TaskError, match="the scorer of game_of_life_halting is not to be trusted: it gives full"
    ):
        GymConfig(generator="game_of_life_halting").make()


@needs_gym
def test_a_scorer_that_raises_finds_an_answer_wrong_if_it_approves_of_its_own() -> None:
    from reasoning_gym.factory import create_dataset

    dataset = create_dataset("prime_factorization", seed=0, size=1)
    entry = dataset[0]
    assert gym._score(dataset, entry["answer"], entry) == (1.0, "")
    score, note = gym._score(dataset, "banana", entry)
    assert score == 0.0
    assert note.startswith("the scorer raised ValueError: invalid literal for int()")
    with pytest.raises(ValueError, match="invalid literal"):
        gym._score(dataset, "banana", entry | {"answer": None})
    with pytest.raises(ValueError, match="invalid literal"):
        gym._score(dataset, "banana", entry | {"answer": "cherry"})


@needs_gym
def test_mistakes_come_out_of_the_jail() -> None:
    if reason := no_jail():
        pytest.skip(f"NOT TESTED: {reason}")
    with pytest.raises(ConfigError, match="did you mean chain_sum"):
        GymConfig(generator="chainsum").make()
    with pytest.raises(ConfigError, match="'min_terms': expected key=value"):
        GymConfig(generator="chain_sum", settings=("min_terms",)).make()


def test_without_a_jail_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gym, "need", lambda *_: None)
    monkeypatch.setattr(gym, "no_jail", lambda: "bubblewrap is not installed")
    with pytest.raises(TaskError, match="run only in a jail, and there is none: bubblewrap is not installed"):
        GymConfig(generator="chain_sum").make()


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        TaskError, match=r"the task gym needs the package reasoning_gym: pip install 'mohist\[gym\]'"
    ):
        GymConfig(generator="chain_sum").make()


@pytest.mark.parametrize("answer", ATTACKS)
def test_what_may_call(answer: str) -> None:
    assert may_call(answer)


@pytest.mark.parametrize(
    "answer",
    [
        *("42", "(1 + 2) * 3", "x**2 + sin(x)/2 + C", "sqrt(x + 1)", "2*x*(y - 1)", "-3.5", "A B C"),
        *("[[1, 0], [0, 1]]", "['_', 'Q']", "{'a': (1, 2)}", "Zoe is a knight.", "Hello, world"),
    ],
)
def test_what_may_not(answer: str) -> None:
    assert not may_call(answer)


@given(st.recursive(st.integers() | st.text() | st.none(), lambda inner: st.lists(inner) | st.tuples(inner)))
def test_literals_call_nothing(value: Any) -> None:
    assert not may_call(repr(value))
