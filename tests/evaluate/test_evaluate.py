"""Evaluations are exact functions of weights, task and config, and their figures follow from the grades."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mohist.errors import ConfigError
from mohist.evaluate.compare import compare
from mohist.evaluate.evaluate import EvaluateConfig, evaluate
from mohist.evaluate.evaluation import Evaluation, GradedAnswer, Result
from mohist.evaluate.tables import comparison_text, drill_down, summary_table
from mohist.types import Problem
from tests.rollout.tiny import TASK, load_tiny, save_tiny

CONFIG = EvaluateConfig(split="train", num_problems=12, num_samples=4, max_tokens=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def graded(accuracy: float, *, tokens: int = 3, cut: bool = False, format: float = 1.0) -> GradedAnswer:
    return GradedAnswer(
        content=f"it is {accuracy:g}",
        reasoning="hm" if accuracy else None,
        accuracy=accuracy,
        reward=accuracy + format / 10,
        parts={"accuracy": accuracy, "format": format},
        note="" if accuracy else "wrong",
        num_tokens=tokens,
        finish_reason="length" if cut else "stop",
    )


def evaluation(*accuracies: list[float], model: str = "m") -> Evaluation:
    results = [
        Result(
            problem=Problem(id=f"p{i}", question=f"question {i}?", answer={"value": i}),
            answers=tuple(graded(accuracy, tokens=3 + i, cut=i == 0) for accuracy in row),
        )
        for i, row in enumerate(accuracies)
    ]
    return Evaluation(model=model, title="test", results=tuple(results))


def test_evaluating_twice_gives_the_same_whatever_the_engine(folder: Path) -> None:
    with_small, with_large = load_tiny(folder, max_running=3), load_tiny(folder, threads=2)
    small, large = evaluate(with_small, TASK.make(), CONFIG), evaluate(with_large, TASK.make(), CONFIG)
    assert [one.title for one in small] == ["greedy", "4 samples at temperature 1"]
    assert [one.results for one in small] == [one.results for one in large]
    greedy, sampled = small
    assert (greedy.num_samples, sampled.num_samples) == (1, 4)
    assert [result.problem for result in greedy.results] == CONFIG.problems(TASK.make())
    assert sampled.cost.completion_tokens == sum(answer.num_tokens for answer in sampled.answers)
    assert sampled.cost.flops > greedy.cost.flops > 0
    seeded = dataclasses.replace(CONFIG, greedy=False, seed=1)
    (other,) = evaluate(with_small, TASK.make(), seeded)
    assert other.results != sampled.results


def test_grades_are_the_tasks(folder: Path) -> None:
    (greedy,) = evaluate(load_tiny(folder), TASK.make(), dataclasses.replace(CONFIG, num_samples=0))
    task = TASK.make()
    for result in greedy.results:
        (answer,) = result.answers
        expected = result.problem.answer["value"]
        assert answer.right == (answer.content.strip() == str(expected))
        assert task.split_of(result.problem) == "train"


def test_stopping_gives_nothing(folder: Path) -> None:
    assert evaluate(load_tiny(folder), TASK.make(), CONFIG, stopping=lambda: True) == []


def test_figures_follow_from_the_grades() -> None:
    one = evaluation([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    assert one.accuracy == 0.25
    assert one.ks == (2, 4)
    assert one.pass_at(4)[0] == pytest.approx(2 / 3)
    assert one.pass_at(2)[0] == pytest.approx((5 / 6 + 1 / 2) / 3)
    low, high = one.pass_at(4)[1]
    assert 0 <= low < 2 / 3 < high <= 1
    assert one.parts == {"accuracy": 0.25, "format": 1}
    assert one.summary["truncated"] == pytest.approx(1 / 3)
    assert one.summary["tokens"] == 4
    assert one.summary["tokens_95th"] == 5
    single = evaluation([1], [0], [1])
    assert single.ks == ()
    assert single.accuracy_interval == pytest.approx((0.2077, 0.9385), abs=1e-4)
    partial = evaluation([0.5], [0.25], [0.75])
    assert 0.25 <= partial.accuracy_interval.low < partial.accuracy_interval.high <= 0.75


def test_partly_right_is_not_passed() -> None:
    one = evaluation([0.5, 0.5])
    assert one.accuracy == 0.5
    assert one.pass_at(2)[0] == 0


def test_json_and_back() -> None:
    one = evaluation([1, 0], [0, 0.5])
    assert Evaluation.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_comparison_pairs_problems() -> None:
    ours, theirs = evaluation([1], [1], [1], [0], model="a"), evaluation([1], [0], [0], [1], model="b")
    found = compare(ours, theirs)
    assert found.difference == 0.25
    assert [a.problem.id for a, _ in found.better] == ["p1", "p2"]
    assert [a.problem.id for a, _ in found.worse] == ["p3"]
    assert found.p_value == 1
    assert found.interval.low < 0.25 < found.interval.high
    text = comparison_text(found)
    assert "a 75.0 %, b 50.0 %" in text
    assert "Better on 2 problems, worse on 1, equal on 1; p = 1." in text


def test_different_problems_are_not_compared() -> None:
    two = evaluation([1], [0])
    with pytest.raises(ConfigError, match="different problems"):
        compare(two, evaluation([1]))
    with pytest.raises(ConfigError, match="different problems"):
        compare(two, dataclasses.replace(two, results=two.results[::-1]))


def test_tables_are_for_people() -> None:
    one, two = evaluation([1], [0]), evaluation([1, 1], [0, 1])
    lines = summary_table([one, two], ["before", "after"]).splitlines()
    assert lines[0].split() == ["before", "after"]
    assert lines[1].split() == ["accuracy", "50.0", "%", "75.0", "%"]
    assert lines[3].split() == ["pass@2", "100.0", "%"]
    assert len({len(line) for line in lines[1:]}) <= 2
    shown = drill_down(two, 1)
    assert shown.splitlines()[0] == "p1: 1 of 2 right"
    assert "answer    it is 0" in shown
    assert "reward 0.1; accuracy 0, format 1; wrong" in shown
    assert "[cut off]" in drill_down(two, 2)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_problems": 0}, "num_problems = 0"),
        ({"num_samples": -1}, "num_samples = -1"),
        ({"greedy": False}, "nothing would be asked"),
        ({"num_samples": 2, "temperature": 0.0}, "temperature = 0.0"),
    ],
)
def test_a_config_that_asks_nothing_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        EvaluateConfig(**changes)
