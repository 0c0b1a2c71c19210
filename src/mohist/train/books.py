"""What a run of reinforcement learning writes down: costs, metrics, every answer, evaluations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mohist.cost import Cost
from mohist.evaluate.evaluation import Evaluation, GradedAnswer
from mohist.llm import LLM
from mohist.rollout.rollouts import cost_of
from mohist.train.groups import Asked
from mohist.train.progress import Progress
from mohist.train.run import Run
from mohist.train.terminal import View
from mohist.types import Group
from mohist.weights.files import write_whole

__all__ = ["Books"]


class Books:
    """The books of one run. Every second of a step is booked under what it was spent on."""

    def __init__(self, run: Run, llm: LLM, view: View) -> None:
        self._run, self._llm, self._view = run, llm, view
        self._progress = Progress(llm.decoder.config)
        self._costs: dict[str, Cost] = {}
        """Of the step that is going on."""

    def sampled(self, groups: Sequence[Group], name: str = "rollout") -> None:
        """The time since the last entry went into sampling and grading `groups`."""
        self._book(name, cost_of(self._llm, groups, seconds=self._progress.lap(0, passes=0).seconds))

    def trained(self, num_tokens: float, *, passes: float) -> None:
        """The time since the last entry went into so many passes over so many rows."""
        self._book("train", self._progress.lap(num_tokens, passes=passes))

    def evaluated(self, step: int, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
        """Keep what the model could do after `step`: all of it in a file, the figures as metrics."""
        cost = sum((one.cost for one in evaluations), start=Cost())
        seconds = self._progress.lap(0, passes=0).seconds
        self._book("evaluate", dataclasses.replace(cost, seconds=seconds))
        folder = self._run.folder / "evaluations"
        folder.mkdir(exist_ok=True)
        with write_whole(folder / f"step-{step}.json") as file:
            file.write(json.dumps([one.to_json() for one in evaluations], ensure_ascii=False).encode())
        for one in evaluations:
            low, high = one.accuracy_interval
            self._view.say(
                f"step {step}, {one.title}, {len(one.results)} problems: accuracy {100 * one.accuracy:.1f} % "
                f"(95 %: {100 * low:.1f} - {100 * high:.1f})"
            )
        return {one.title: one.summary for one in evaluations}

    def close_start(self, metrics: Mapping[str, Any]) -> None:
        """Log what was done before the first step as step 0, if anything was."""
        costs, self._costs = self._costs, {}
        if costs:
            self._run.log(0, {**metrics, **_times(costs)})

    def close_step(
        self, step: int, asked: Asked, advantages: Sequence[Sequence[float]], metrics: Mapping[str, Any]
    ) -> None:
        """Log a step and show it."""
        costs, self._costs = self._costs, {}
        rollout, train = costs["rollout"], costs["train"]
        timing = {
            **_times(costs),
            "prompt_tokens": rollout.prompt_tokens,
            "cached_tokens": rollout.cached_tokens,
            "completion_tokens": rollout.completion_tokens,
            "tokens_per_s": rollout.completion_tokens / (rollout.seconds + train.seconds),
            "rollout_tokens_per_s": rollout.completion_tokens / rollout.seconds,
            "train_tokens_per_s": train.prompt_tokens / train.seconds if train.prompt_tokens else 0.0,
            "flops": sum(cost.flops for cost in costs.values()),
            "peak_bytes": max(cost.peak_bytes for cost in costs.values()),
        }
        self._run.log(step, {**metrics, **timing})
        self._run.log_samples(step, _rows(asked, advantages))
        self._run.write_ledger()
        self._view.step(step, {**metrics, **timing}, self._run.money())

    def _book(self, name: str, cost: Cost) -> None:
        self._costs[name] = self._costs.get(name, Cost()) + cost
        self._run.ledger.add(name, cost)


def _times(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Seconds in all, and of each cost."""
    parts = {f"{name}_s": cost.seconds for name, cost in costs.items()}
    return {"seconds": sum(parts.values()), **parts}


def _rows(asked: Asked, advantages: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Every answer as samples.jsonl has it. An answer of a group that was replaced has no advantage."""
    rows: list[dict[str, Any]] = []
    for group, row in [
        *zip(asked.groups, advantages, strict=True),
        *((group, [None] * len(group.rollouts)) for group in asked.replaced),
    ]:
        for rollout, advantage in zip(group.rollouts, row, strict=True):
            problem = {"problem": group.problem.id, "question": group.problem.question}
            answer = vars(GradedAnswer.of(rollout))
            rows.append(problem | {"sample": rollout.sample, "advantage": advantage} | answer)
    return rows
