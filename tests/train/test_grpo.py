"""The loop of reinforcement learning: it learns, on policy to the last bit, and the same in every run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mohist.errors import ConfigError, RequestError
from mohist.evaluate.evaluate import EvaluateConfig
from mohist.train import grpo as grpo_module
from mohist.train.advantages import AdvantageConfig, Overlong
from mohist.train.extras import ExtrasConfig
from mohist.train.grpo import GrpoConfig, grpo, plan
from mohist.train.lora import LoraConfig
from mohist.train.losses import PolicyConfig
from mohist.train.optim import OptimConfig
from mohist.train.run import RunConfig
from mohist.train.sampler import SamplingConfig
from mohist.train.terminal import Quiet
from tests.rollout.tiny import LATENT, TASK, load_tiny, save_tiny

ONE_TOKEN = SamplingConfig(max_tokens=1)
EVALUATION = EvaluateConfig(split="train", num_problems=12, max_tokens=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def config(model: Path, run: Path, **changes: Any) -> GrpoConfig:
    base = GrpoConfig(
        model=str(model),
        task=TASK,
        steps=6,
        problems_per_step=6,
        group_size=8,
        num_problems=12,
        sampling=ONE_TOKEN,
        optim=OptimConfig(lr=5e-3, weight_decay=0.0),
        run=RunConfig(folder=run),
        threads=1,
    )
    return dataclasses.replace(base, **changes)


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def answers(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]


def weights(run: Path, step: int) -> str:
    """Model and optimiser of a checkpoint, as a digest."""
    digest = hashlib.blake2b()
    folder = run / "checkpoints" / f"step-{step}"
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def same_but_timing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clocks = ("seconds", "_s", "_bytes")
    return [{name: value for name, value in row.items() if not name.endswith(clocks)} for row in rows]


def test_it_learns_on_policy(model: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"problems_per_step": 12, "group_size": 16}
    grpo(config(model, tmp_path, steps=30, evaluate_every=30, evaluation=EVALUATION, **changes))
    first, *steps = logged(tmp_path)
    assert [row["step"] for row in steps] == list(range(1, 31))
    assert {row["mismatch"] for row in steps} == {0.0}
    assert {row["importance"] for row in steps} == {1.0}
    assert sum(row["reward"] for row in steps[:3]) / 3 < 0.2
    assert sum(row["reward"] for row in steps[-3:]) / 3 > 0.6
    assert first["evaluation"]["greedy"]["accuracy"] < 0.3
    assert steps[-1]["evaluation"]["greedy"]["accuracy"] > 0.6
    assert steps[-1]["entropy"] < steps[0]["entropy"]
    rows = answers(tmp_path)
    assert len(rows) == 30 * 12 * 16
    assert {"problem", "question", "content", "reward", "advantage", "note"} <= rows[0].keys()
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert ledger["rollout"]["completion_tokens"] == len(rows)
    assert ledger["total"]["flops"] > ledger["train"]["flops"] > 0


def test_experts_are_routed_alike(tmp_path: Path) -> None:
    """Latent attention and experts whose routers learn: the same experts in sampler and trainer."""
    model = save_tiny(tmp_path / "model", layer=LATENT)
    extras = ExtrasConfig(bias_rate=0.01, balance=1e-3, mtp=0)
    changes: dict[str, Any] = {"problems_per_step": 12, "group_size": 16, "extras": extras, "steps": 15}
    grpo(config(model, tmp_path / "run", **changes))
    rows = logged(tmp_path / "run")
    assert {row["mismatch"] for row in rows} == {0.0}
    assert all(row["expert_overload"] > 0 for row in rows)
    assert sum(row["reward"] for row in rows[-3:]) > 2 * sum(row["reward"] for row in rows[:3])


def test_a_random_reward_teaches_nothing(model: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"problems_per_step": 12, "group_size": 16, "reward": "random"}
    grpo(config(model, tmp_path, steps=30, evaluate_every=30, evaluation=EVALUATION, **changes))
    rows = logged(tmp_path)
    assert all(row["mismatch"] == 0.0 for row in rows[1:])
    assert rows[-1]["evaluation"]["greedy"]["accuracy"] < 0.3
    assert sum(row["accuracy"] for row in rows[-3:]) / 3 < 0.25


def test_the_same_config_gives_the_same_bits_on_any_threads(model: Path, tmp_path: Path) -> None:
    grpo(config(model, tmp_path / "a"))
    grpo(config(model, tmp_path / "b", threads=2, max_tokens=64))
    grpo(config(model, tmp_path / "c", seed=1))
    assert weights(tmp_path / "a", 6) == weights(tmp_path / "b", 6)
    assert answers(tmp_path / "a") == answers(tmp_path / "b")
    assert weights(tmp_path / "a", 6) != weights(tmp_path / "c", 6)


class StopsAt(Quiet):
    """Asks the run to end, as Ctrl-C does, while a step's answers are being sampled."""

    def __init__(self, working: int) -> None:
        self._left = working

    def working(self, what: str, done: int = 0, total: int = 0) -> None:
        self._left -= 1
        if self._left == 0:
            import signal

            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("working", [1, 4, 9])
def test_an_interrupted_run_goes_on_bit_for_bit(model: Path, tmp_path: Path, working: int) -> None:
    changes: dict[str, Any] = {
        "sampling": SamplingConfig(max_tokens=2),
        "policy": PolicyConfig(kl=0.1),
        "reference_every": 2,
        "max_refills": 3,
        "inner_epochs": 2,
        "steps": 5,
    }
    grpo(config(model, tmp_path / "whole", **changes))
    broken = config(model, tmp_path / "broken", **changes)
    grpo(broken, view=StopsAt(working))
    assert len(logged(tmp_path / "broken")) < 5
    grpo(broken, resume=True)
    assert weights(tmp_path / "broken", 5) == weights(tmp_path / "whole", 5)
    assert answers(tmp_path / "broken") == answers(tmp_path / "whole")
    assert same_but_timing(logged(tmp_path / "broken")) == same_but_timing(logged(tmp_path / "whole"))


def test_groups_without_signal_cost_no_training(model: Path, tmp_path: Path) -> None:
    """Answers are looked for in a box, which this model cannot write."""
    changes: dict[str, Any] = {"sampling": SamplingConfig(max_tokens=3), "steps": 2}
    grpo(config(model, tmp_path, **changes, task=dataclasses.replace(TASK, extract=("boxed",))))
    for row in logged(tmp_path):
        assert row["silent"] == 1
        assert "mismatch" not in row
        assert row["train_tokens_per_s"] == 0
    assert json.loads((tmp_path / "ledger.json").read_text())["train"]["flops"] == 0


def test_refills_replace_groups_without_signal(model: Path, tmp_path: Path) -> None:
    grpo(config(model, tmp_path / "some", max_refills=5, steps=3))
    grpo(config(model, tmp_path / "none", steps=3))
    with_refills, without = logged(tmp_path / "some"), logged(tmp_path / "none")
    assert all(row["groups"] == 6 for row in with_refills)
    assert sum(row["refills"] for row in with_refills) > 0
    assert all(row["refills"] <= 5 for row in with_refills)
    num_taught = [
        sum(round((1 - row["silent"]) * (row["groups"] + row["refills"])) for row in rows)
        for rows in (with_refills, without)
    ]
    assert num_taught[0] > num_taught[1]
    replaced = [row for row in answers(tmp_path / "some") if row["advantage"] is None]
    assert len(replaced) == 8 * sum(row["refills"] for row in with_refills)


def test_a_quantized_sampler_is_measured_and_corrected(model: Path, tmp_path: Path) -> None:
    grpo(config(model, tmp_path, sampling=SamplingConfig(max_tokens=2, quantize="q8_0"), steps=4))
    rows = [row for row in logged(tmp_path) if "mismatch" in row]
    assert rows
    assert all(0 < row["mismatch"] < 0.1 for row in rows)
    assert any(row["importance"] != 1 for row in rows)
    assert all(abs(row["importance"] - 1) < 0.05 for row in rows)


def test_kl_holds_the_policy_to_its_reference(model: Path, tmp_path: Path) -> None:
    grpo(config(model, tmp_path / "held", policy=PolicyConfig(kl=1.0), steps=12))
    grpo(config(model, tmp_path / "fresh", policy=PolicyConfig(kl=1.0), reference_every=4, steps=12))
    held, fresh = logged(tmp_path / "held"), logged(tmp_path / "fresh")
    assert held[0]["kl"] == 0
    assert held[-1]["kl"] > 0
    assert {row["mismatch"] for row in held} == {0.0}
    assert [row["step"] for row in fresh if row["kl"] == 0] == [1, 5, 9]


def test_problems_that_are_sometimes_solved_get_solved_always(model: Path, tmp_path: Path) -> None:
    """The sanity test of arXiv 2510.26788: of what is neither known nor out of reach, over 95 % is learnt."""
    half_way = config(model, tmp_path / "start", problems_per_step=12, group_size=16, steps=14)
    start = grpo(half_way)
    sane = dataclasses.replace(
        half_way,
        model=str(start),
        steps=40,
        perfectible=32,
        problems_per_step=6,
        run=RunConfig(folder=tmp_path / "sane", save_every=10),
    )
    grpo(sane)
    asked = {row["problem"] for row in answers(tmp_path / "sane")}
    assert 0 < len(asked) < 12
    _, *rows = logged(tmp_path / "sane")
    assert 0.2 < rows[0]["accuracy"] < 0.8
    assert sum(row["accuracy"] for row in rows[-5:]) / 5 > 0.95
    ledger = json.loads((tmp_path / "sane" / "ledger.json").read_text())
    assert ledger["perfectible"]["completion_tokens"] == 12 * 32


def test_without_any_problem_in_reach_nothing_starts(model: Path, tmp_path: Path) -> None:
    out_of_reach = dataclasses.replace(TASK, extract=("boxed",))
    with pytest.raises(ConfigError, match="of 12 problems the model solves none"):
        grpo(config(model, tmp_path, perfectible=4, task=out_of_reach))


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce"])
def test_every_algorithm_runs_on_policy(model: Path, tmp_path: Path, algorithm: Any) -> None:
    advantage = AdvantageConfig(baseline="batch", scale="batch")
    changes: dict[str, Any] = {"policy": PolicyConfig(algorithm=algorithm), "advantage": advantage}
    grpo(config(model, tmp_path, steps=2, inner_epochs=2, overlong=Overlong(margin_tokens=1), **changes))
    for row in logged(tmp_path):
        assert row["mismatch"] == 0.0
        assert row["grad_norm"] > 0


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"group_size": 1}, "group_size = 1"),
        ({"steps": 0}, "steps = 0"),
        ({"reference_every": 5}, "needs policy.kl over 0"),
        ({"max_refills": 1, "advantage": AdvantageConfig(baseline="batch")}, "every group has a signal"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: Mapping[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        config(Path("m"), Path("r"), **changes)


def test_sampling_that_teaches_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="temperature = 0"):
        SamplingConfig(temperature=0)
    with pytest.raises(RequestError, match="top_p = 0"):
        SamplingConfig(top_p=0)


def test_the_plan_counts_before_anything_starts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo_module, "flops_per_second", lambda threads: 1e9)
    text = plan(config(model, tmp_path / "run"))
    assert "288 samples" in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_tokens=3, temperature=0.7),
        SamplingConfig(max_tokens=3, temperature=1.3, top_k=5),
        SamplingConfig(max_tokens=3, top_p=0.8),
        SamplingConfig(max_tokens=3, temperature=0.8, top_k=9, top_p=0.9),
    ],
    ids=lambda one: f"{one.temperature}-{one.top_k}-{one.top_p}",
)
def test_the_trainer_scores_what_was_sampled(model: Path, tmp_path: Path, sampling: SamplingConfig) -> None:
    """With the whole distribution in the ratio, top-p 0.8 alone would bias it to 0.9 (TRL issue 6789)."""
    task = dataclasses.replace(TASK, extract=("number",), format_weight=0.5)
    grpo(config(model, tmp_path, task=task, sampling=sampling, policy=PolicyConfig(kl=0.1), steps=4))
    rows = logged(tmp_path)
    assert {row.get("mismatch", 0.0) for row in rows} == {0.0}
    taught = [row for row in rows if "mismatch" in row]
    assert taught
    assert all(row["importance"] == 1 and row["clipped"] == 0 for row in taught)


def test_lora_is_on_policy_too_and_ends_in_one_model(model: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lora": LoraConfig(rank=4), "policy": PolicyConfig(kl=0.1), "steps": 4}
    merged = grpo(config(model, tmp_path / "whole", **changes))
    assert merged == tmp_path / "whole" / "model"
    assert load_tiny(merged).decoder.config == load_tiny(model).decoder.config
    rows = logged(tmp_path / "whole")
    assert {row["mismatch"] for row in rows} == {0.0}
    assert rows[-1]["kl"] > 0
    broken = config(model, tmp_path / "broken", **changes)
    grpo(broken, view=StopsAt(4))
    grpo(broken, resume=True)
    assert weights(tmp_path / "broken", 4) == weights(tmp_path / "whole", 4)
