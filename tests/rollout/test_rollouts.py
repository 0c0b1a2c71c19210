"""Groups are a function of weights, problems and seeds: not of the engine's size, timing or threads."""

from __future__ import annotations

import dataclasses
import random
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mohist.errors import RequestError, RunError
from mohist.llm import LLM
from mohist.rollout.rollouts import Rollouts, seed_of
from mohist.types import Grade, Group, Message, Problem, SamplingParams
from tests.rollout.tiny import END, TASK, load_tiny, save_tiny

PARAMS = SamplingParams(max_tokens=8, temperature=1.1)
TINY = TASK.make()
PROBLEMS = TINY.problems("train", 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return load_tiny(folder)


def sampled(llm: LLM, problems: Sequence[Problem] = PROBLEMS, num_samples: int = 4) -> list[Group]:
    with Rollouts(llm, TINY.grade, PARAMS, num_samples=num_samples) as rollouts:
        for problem in problems:
            rollouts.submit(problem, seed=seed_of(7, problem.id))
        return list(rollouts)


def content(groups: Sequence[Group]) -> list[object]:
    """Everything but usage, which tells what the cache saved."""
    return [
        (
            group.problem,
            group.prompt,
            r.sample,
            r.message,
            r.grade,
            r.completion.tokens,
            r.completion.logprobs,
        )
        for group in groups
        for r in group.rollouts
    ]


def test_groups_are_graded_answers_in_order(llm: LLM) -> None:
    groups = sampled(llm)
    assert [group.problem for group in groups] == PROBLEMS
    assert len({r.completion.tokens for group in groups for r in group.rollouts}) > 8
    for group in groups:
        assert group.prompt == tuple(llm.render(group.problem.messages))
        assert [r.sample for r in group.rollouts] == [0, 1, 2, 3]
        for r in group.rollouts:
            assert r.grade == TINY.grade(group.problem, r.message)
            ended = r.completion.tokens[-1] == END
            assert r.completion.finish_reason == ("stop" if ended else "length")
            assert ended or len(r.completion.tokens) == PARAMS.max_tokens
            answer = r.completion.tokens[:-1] if ended else r.completion.tokens
            assert r.message == llm.chat.parse(answer, group.prompt)


@pytest.mark.parametrize(
    ("threads", "max_running", "num_blocks"), [(1, 3, 64), (2, 64, 64), (1, 64, 6)], ids=str
)
def test_engine_size_and_threads_change_nothing(
    llm: LLM, folder: Path, threads: int, max_running: int, num_blocks: int
) -> None:
    other = load_tiny(folder, threads=threads, max_running=max_running, num_blocks=num_blocks)
    assert content(sampled(other)) == content(sampled(llm))


def test_grading_times_change_nothing(llm: LLM) -> None:
    def slow(problem: Problem, message: Message) -> Grade:
        time.sleep(random.random() / 200)
        return TINY.grade(problem, message)

    with Rollouts(llm, slow, PARAMS, num_samples=4) as rollouts:
        for problem in PROBLEMS:
            rollouts.submit(problem, seed=seed_of(7, problem.id))
        assert content(list(rollouts)) == content(sampled(llm))


def test_a_problem_submitted_later_gets_the_same_answers(llm: LLM) -> None:
    with Rollouts(llm, TINY.grade, PARAMS, num_samples=4) as rollouts:
        rest = iter(PROBLEMS)
        for problem in (next(rest), next(rest)):
            rollouts.submit(problem, seed=seed_of(7, problem.id))
        groups = []
        for group in rollouts:
            groups.append(group)
            if (problem := next(rest, None)) is not None:
                rollouts.submit(problem, seed=seed_of(7, problem.id))
    assert content(groups) == content(sampled(llm))


def test_grading_overlaps_generation(llm: LLM) -> None:
    """The first answers are graded while the engine still has others to finish."""
    unfinished_when_graded: list[bool] = []
    main = threading.current_thread()

    def watching(problem: Problem, message: Message) -> Grade:
        assert threading.current_thread() is not main
        unfinished_when_graded.append(llm.engine.busy)
        return TINY.grade(problem, message)

    with Rollouts(llm, watching, PARAMS, num_samples=8) as rollouts:
        for problem in PROBLEMS:
            rollouts.submit(problem, seed=1)
        list(rollouts)
    assert any(unfinished_when_graded)


def test_the_samples_of_a_problem_share_its_prompt(folder: Path) -> None:
    llm = load_tiny(folder)
    long = dataclasses.replace(PROBLEMS[0], question="12345678" * 4)
    (group,) = sampled(llm, [long])
    assert [r.completion.usage.cached_tokens for r in group.rollouts] == [0, 32, 32, 32]


def test_an_error_of_the_grader_is_an_error(folder: Path) -> None:
    llm = load_tiny(folder)

    def broken(problem: Problem, message: Message) -> Grade:
        raise ZeroDivisionError(problem.id)

    with Rollouts(llm, broken, PARAMS, num_samples=2) as rollouts:
        for problem in PROBLEMS:
            rollouts.submit(problem, seed=1)
        with pytest.raises(ZeroDivisionError, match=re.escape(PROBLEMS[0].id)):
            list(rollouts)
    assert not llm.engine.busy
    llm.engine.check()


def test_a_reward_that_is_no_number_is_an_error(llm: LLM) -> None:
    with Rollouts(
        llm, lambda problem, message: Grade(reward=float("nan")), PARAMS, num_samples=1
    ) as rollouts:
        rollouts.submit(PROBLEMS[0], seed=1)
        with pytest.raises(RunError, match="the grader gave the reward nan"):
            list(rollouts)


def test_stopping_leaves_the_engine_free(folder: Path) -> None:
    llm = load_tiny(folder)
    told: list[tuple[int, int]] = []
    with Rollouts(
        llm,
        TINY.grade,
        PARAMS,
        num_samples=4,
        progress=lambda done, total: told.append((done, total)),
        stopping=lambda: len(told) == 2,
    ) as rollouts:
        for problem in PROBLEMS:
            rollouts.submit(problem, seed=1)
        assert len(list(rollouts)) < len(PROBLEMS)
    assert len(told) == 2
    assert told[-1][1] == 4 * len(PROBLEMS)
    assert not llm.engine.busy
    assert sampled(llm)


def test_a_prompt_that_does_not_fit_is_refused(llm: LLM) -> None:
    long = dataclasses.replace(PROBLEMS[0], question="1" * 62)
    with Rollouts(llm, TINY.grade, PARAMS, num_samples=4) as rollouts, pytest.raises(RequestError):
        rollouts.submit(long, seed=1)


def test_seeds_depend_on_every_part() -> None:
    seeds = [seed_of(*parts) for parts in [(1, 2, "a"), (1, 3, "a"), (2, 2, "a"), (1, 2, "b"), (12, "a")]]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert seed_of(1, 2, "a") == 6790347191068001977
