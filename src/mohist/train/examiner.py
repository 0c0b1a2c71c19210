"""Who asks the model: problems of a step to learn from, held-out ones to see what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mohist.errors import ConfigError
from mohist.evaluate.evaluate import evaluate
from mohist.evaluate.evaluation import Evaluation, Result
from mohist.llm import LLM
from mohist.rollout.rollouts import Rollouts, seed_of
from mohist.tasks.task import Task
from mohist.train.advantages import advantages, shaped_reward
from mohist.train.groups import Asked, ProblemOrder
from mohist.train.stop import Stop
from mohist.train.terminal import View
from mohist.types import Group, Problem

if TYPE_CHECKING:
    from mohist.train.grpo import GrpoConfig

__all__ = ["Examiner"]

ENDLESS_PROBLEMS = 2000
"""Problems to learn from, of a task that has no end of them."""
PERFECTIBLE = (0.2, 0.8)
"""Shares of right answers between which a problem is neither known nor out of reach (arXiv 2510.26788)."""


class Examiner:
    """Asks the problems of one task under one config. Once `stop` is requested, it returns what it has."""

    def __init__(self, config: GrpoConfig, task: Task, llm: LLM, view: View, stop: Stop) -> None:
        self._config, self._task, self._llm, self._view, self._stop = config, task, llm, view, stop

    def problems(self) -> list[Problem]:
        """The held-in problems that the config names."""
        wanted = self._config.num_problems or self._task.size("train") or ENDLESS_PROBLEMS
        return self._task.problems("train", wanted, seed=self._config.seed)

    def perfectible(self, problems: Sequence[Problem]) -> tuple[list[int], list[Group]]:
        """Which of the problems the model, as it is now, solves sometimes; and its answers.

        Raises ConfigError if there are none.
        """
        groups: list[Group] = []
        with self._rollouts(self._config.perfectible, "trying problems") as rollouts:
            for problem in problems:
                rollouts.submit(problem, seed=seed_of(self._config.seed, "perfectible", problem.id))
            groups = list(rollouts)
        low, high = PERFECTIBLE
        rates = [Result.of(group).num_right / len(group.rollouts) for group in groups]
        chosen = [i for i, rate in enumerate(rates) if low <= rate <= high]
        if not chosen and not self._stop.requested:
            raise ConfigError(
                f"perfectible = {self._config.perfectible}: of {len(groups)} problems the model solves none "
                f"{low:.0%} to {high:.0%} of the time; choose other problems, or raise num_problems"
            )
        return chosen, groups

    def ask(self, step: int, order: ProblemOrder) -> Asked:
        """The groups of a step. A refill is asked as soon as it is known to be needed, while others go on.

        The noise of an answer is a function of run seed, step, problem and place in the step.
        """
        asked, num_submitted = Asked(), 0
        most = self._config.problems_per_step + self._config.max_refills

        def submit() -> None:
            nonlocal num_submitted
            problem = order.take()
            rollouts.submit(problem, seed=seed_of(self._config.seed, step, num_submitted, problem.id))
            num_submitted += 1

        with self._rollouts(self._config.group_size, "sampling") as rollouts:
            for _ in range(self._config.problems_per_step):
                submit()
            for group in rollouts:
                if num_submitted < most and not self._teaches(step, group):
                    asked.replaced.append(group)
                    submit()
                else:
                    asked.groups.append(group)
        return asked

    def rewards(self, step: int, group: Group) -> list[float]:
        """What the answers of a group are worth in training."""
        config = self._config
        if config.reward == "random":
            coins = (seed_of("coin", config.seed, step, group.problem.id, r.sample) for r in group.rollouts)
            return [float(coin & 1) for coin in coins]
        most = config.sampling.max_tokens
        return [shaped_reward(rollout, config.overlong, max_tokens=most) for rollout in group.rollouts]

    def evaluate(self) -> list[Evaluation]:
        """What the model can do now; nothing, once `stop` is requested."""
        return evaluate(
            self._llm,
            self._task,
            self._config.evaluation,
            thinking=self._config.sampling.thinking,
            progress=lambda title, done, total: self._view.working(f"evaluating, {title}", done, total),
            stopping=lambda: self._stop.requested,
        )

    def _teaches(self, step: int, group: Group) -> bool:
        (row,) = advantages([self.rewards(step, group)], self._config.advantage)
        return any(row)

    def _rollouts(self, num_samples: int, what: str) -> Rollouts:
        return Rollouts(
            self._llm,
            self._task.grade,
            self._config.sampling.params(),
            num_samples=num_samples,
            thinking=self._config.sampling.thinking,
            progress=lambda done, total: self._view.working(what, done, total),
            stopping=lambda: self._stop.requested,
        )
