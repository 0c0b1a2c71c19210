import dataclasses
import json
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from mohist.config import load
from mohist.cost import Prices
from mohist.errors import ConfigError, RunError
from mohist.llm import LLM
from mohist.recipes.general import GeneralConfig, questions
from mohist.recipes.outcome import read_outcome
from mohist.recipes.r1 import R1Config, check_disjoint, r1
from mohist.types import Message

RECIPES = Path(str(files("mohist.recipes")))
TINY = """
    --shape.hidden_size=32 --shape.num_layers=2 --shape.num_experts=4 --threads=1
    --teacher.num_traces=40 --cold_start.steps=2 --cold_start.samples_per_step=8
    --reinforce.steps=2 --reinforce.problems_per_step=2 --reinforce.group_size=4 --reinforce.num_problems=40
    --reinforce.evaluate_every=2 --reinforce.sampling.max_tokens=30
    --reinforce.evaluation.num_problems=10 --reinforce.evaluation.num_samples=2
    --reinforce.evaluation.max_tokens=30
"""


def quickstart(folder: Path, *overrides: str) -> R1Config:
    return load(
        R1Config,
        path=RECIPES / "quickstart.toml",
        overrides=[*TINY.split(), f"--folder={folder}", *overrides],
    )


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path: Path) -> None:
    config = load(R1Config, path=path)
    task = config.reinforce.task.make()
    check_disjoint(
        task, task.problems("train", config.num_problems), config.reinforce.evaluation.problems(task)
    )


def test_all_stages_leave_their_results(tmp_path: Path) -> None:
    config = quickstart(tmp_path, "--prices.machine_per_hour=3.6")
    assert r1(config) == config.result
    outcome = read_outcome(config)
    assert [one.title for one in outcome.before] == [one.title for one in outcome.after]
    assert [len(one.results) for one in (*outcome.before, *outcome.after)] == [10] * 4
    assert list(outcome.ledger.entries) == [
        "cold_start, train",
        "reinforce, evaluate",
        "reinforce, rollout",
        "reinforce, train",
    ]
    text = outcome.text()
    assert "10 held-out problems" in text
    assert "best of 2" in text
    assert "USD" in text
    llm = LLM.load(str(config.result), threads=1)
    answers, _ = llm.generate([llm.render(outcome.after[0].results[0].problem.messages)])
    assert answers[0].message.reasoning is not None
    assert not list(config.result.glob("training"))


def test_unrelated_questions_are_asked_before_and_after(tmp_path: Path) -> None:
    config = quickstart(tmp_path, "--general.num_questions=3", "--general.max_tokens=5")
    r1(config)
    outcome = read_outcome(config)
    assert [len(one.results) for one in outcome.general] == [3, 3]
    assert outcome.general[0].model != outcome.general[1].model
    assert "3 unrelated questions" in outcome.text()
    assert "unrelated questions" in outcome.ledger.entries


def test_the_questions_that_come_along_know_right_from_wrong() -> None:
    task = questions(GeneralConfig()).make()
    with closing(task):
        problems = {problem.question: problem for problem in task.problems("test", 60)}
        assert len(problems) == 60
        capital = problems["What is the capital of France?"]
        assert task.grade(capital, Message(role="assistant", content="It is\nParis.")).reward == 1
        assert task.grade(capital, Message(role="assistant", content="It is comparison.")).reward == 0


def test_training_meets_no_held_out_problem_and_no_mismatch(tmp_path: Path) -> None:
    config = quickstart(tmp_path)
    r1(config)
    rows = [json.loads(line) for line in config.examples.read_text().splitlines()]
    asked = {row["messages"][0]["content"] for row in rows}
    folder = config.reinforced("").run.folder
    asked |= {json.loads(line)["question"] for line in (folder / "samples.jsonl").read_text().splitlines()}
    held_out = {result.problem.question for result in read_outcome(config).after[0].results}
    assert asked
    assert held_out.isdisjoint(asked)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(step.get("mismatch", 0.0) == 0.0 for step in metrics)


def test_a_finished_recipe_is_not_repeated(tmp_path: Path) -> None:
    config = quickstart(tmp_path)
    r1(config)
    before = {path: path.read_bytes() for path in config.result.iterdir()}
    with pytest.raises(RunError, match="--resume"):
        r1(config)
    r1(config, resume=True)
    assert {path: path.read_bytes() for path in config.result.iterdir()} == before


def test_the_seed_changes_every_stage(tmp_path: Path) -> None:
    config = quickstart(tmp_path, "--seed=3", "--reinforce.seed=4")
    assert config.cold_start is not None
    assert config.taught(config.cold_start, "x").seed == 3
    assert config.reinforced("x").seed == 7
    assert config.reinforced("x").run.prices == config.prices


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": None}, "go together"),
        ({"teacher": None, "cold_start": None}, "random weights"),
    ],
)
def test_half_a_recipe_is_refused(tmp_path: Path, change: dict[str, None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(quickstart(tmp_path), **change)


@pytest.mark.parametrize(
    "override",
    ["--reinforce.model=x", "--cold_start.model=x", "--reinforce.run.folder=x", "--cold_start.threads=2"],
)
def test_what_belongs_to_the_recipe_is_not_set_in_a_stage(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="belong to the recipe"):
        quickstart(tmp_path, override)


def test_prices_are_set_once(tmp_path: Path) -> None:
    config = quickstart(tmp_path)
    stage = dataclasses.replace(config.reinforce.run, prices=Prices(machine_per_hour=1.0))
    with pytest.raises(ConfigError, match="belong to the recipe"):
        dataclasses.replace(config, reinforce=dataclasses.replace(config.reinforce, run=stage))
