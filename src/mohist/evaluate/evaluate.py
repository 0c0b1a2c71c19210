"""Ask a model the problems of a task: greedily, and with samples beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from mohist.errors import ConfigError
from mohist.evaluate.evaluation import Evaluation, Result
from mohist.llm import LLM
from mohist.rollout.rollouts import Rollouts, cost_of, seed_of
from mohist.tasks.task import Split, Task, TaskConfig
from mohist.types import Problem, SamplingParams

__all__ = ["EvaluateConfig", "TaskEvaluateConfig", "evaluate"]

Progress = Callable[[str, int, int], None]
"""Told what is asked (the evaluation's title), the answers that have ended, and those in all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which problems are asked, and how."""

    split: Split = "test"
    """Problems that training never sees, or those that it uses."""
    num_problems: int = 500
    """How many of them; the first of the split in the order of `problem_seed`."""
    problem_seed: int = 0
    """Chooses problems; two evaluations can be compared only where it is the same."""
    greedy: bool = True
    """Ask for the likeliest answer to every problem."""
    num_samples: int = 0
    """Sampled answers to every problem, for mean@n and pass@k; 0 for none."""
    temperature: float = 1.0
    """Of the sampled answers."""
    top_k: int = 0
    """Sample from so many most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Sample from the most likely tokens with this much probability."""
    seed: int = 0
    """Of the sampled answers."""
    max_tokens: int = 512
    """Most tokens of an answer, thinking included."""

    def __post_init__(self) -> None:
        if self.num_problems < 1:
            raise ConfigError(f"num_problems = {self.num_problems}: it must be at least 1")
        if self.num_samples < 0:
            raise ConfigError(f"num_samples = {self.num_samples}: it must be 0 or a number of answers")
        if not self.greedy and not self.num_samples:
            raise ConfigError("greedy = false and num_samples = 0: nothing would be asked; set one of them")
        if self.num_samples and not self.temperature > 0:
            raise ConfigError(f"temperature = {self.temperature}: all samples would be the greedy answer")
        self.sampling()

    def sampling(self) -> SamplingParams:
        """How samples are drawn. Raises RequestError for numbers out of range."""
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )

    def problems(self, task: Task) -> list[Problem]:
        """The problems that are asked."""
        return task.problems(self.split, self.num_problems, seed=self.problem_seed)


@dataclass(frozen=True, kw_only=True)
class TaskEvaluateConfig(EvaluateConfig):
    """What `mohist evaluate` reads."""

    task: TaskConfig
    thinking: bool | None = None
    """Ask for thinking or for none, where the chat template has a switch; none leaves it to the template."""


def evaluate(
    llm: LLM,
    task: Task,
    config: EvaluateConfig,
    *,
    thinking: bool | None = None,
    progress: Progress = lambda title, done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Evaluation]:
    """The greedy evaluation, then the sampled one, as far as the config asks for them.

    Both are exact functions of weights, task and config. Empty, once `stopping` says so.
    """
    problems = config.problems(task)
    ways: list[tuple[str, SamplingParams, int]] = []
    if config.greedy:
        ways.append(("greedy", SamplingParams(max_tokens=config.max_tokens, temperature=0), 1))
    if config.num_samples:
        title = f"{config.num_samples} samples at temperature {config.temperature:g}"
        ways.append((title, config.sampling(), config.num_samples))
    found: list[Evaluation] = []
    for title, params, num_samples in ways:
        start = perf_counter()
        with Rollouts(
            llm,
            task.grade,
            params,
            num_samples=num_samples,
            thinking=thinking,
            progress=lambda done, total, title=title: progress(title, done, total),
            stopping=stopping,
        ) as rollouts:
            for problem in problems:
                rollouts.submit(problem, seed=seed_of(config.seed, problem.id))
            groups = list(rollouts)
        if len(groups) < len(problems):
            return []
        cost = cost_of(llm, groups, seconds=perf_counter() - start)
        results = tuple(map(Result.of, groups))
        found.append(Evaluation(model=llm.source, title=title, results=results, cost=cost))
    return found
