"""Reinforcement learning with verifiable rewards: GRPO and its family, on policy to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from mohist.errors import ConfigError
from mohist.evaluate.evaluate import EvaluateConfig
from mohist.model.count import cache_values_per_token, parameters
from mohist.tasks.task import TaskConfig
from mohist.train.advantages import AdvantageConfig, Overlong, advantages
from mohist.train.books import Books
from mohist.train.examiner import Examiner
from mohist.train.extras import ExtrasConfig
from mohist.train.groups import ProblemOrder, measured, to_samples
from mohist.train.lora import LoraConfig
from mohist.train.losses import PolicyConfig, policy_loss
from mohist.train.models import load_outline
from mohist.train.optim import OptimConfig
from mohist.train.plan import Plan, flops_per_second
from mohist.train.policy import Policy
from mohist.train.report import write_report
from mohist.train.run import Run, RunConfig
from mohist.train.sampler import SamplingConfig
from mohist.train.stop import on_request
from mohist.train.terminal import Quiet, View

__all__ = ["GrpoConfig", "grpo", "plan"]

PLANNED = 64
"""Problems whose prompts tell `plan` how long prompts are."""


@dataclass(frozen=True, kw_only=True)
class GrpoConfig:
    """What `mohist grpo` reads."""

    model: str
    """Where training starts: a folder, hf:ORG/NAME or pypi:PACKAGE."""
    task: TaskConfig
    steps: int = 200
    """Steps, each of which samples answers and learns from them."""
    problems_per_step: int = 8
    """Problems that a step asks."""
    group_size: int = 8
    """Answers to each problem, which are compared with each other; at least 2."""
    max_refills: int = 0
    """Most further problems that a step asks in place of groups without signal (DAPO's dynamic sampling)."""
    inner_epochs: int = 1
    """Optimiser steps on the answers of a step; after the first one they are off policy, and clipped."""
    num_problems: int | None = None
    """Held-in problems to learn from; none takes all, or 2000 of a task without end."""
    perfectible: int = 0
    """Learn only from problems that the start model gets right 20 to 80 % of the time, out of so many
    answers: training accuracy must then get over 95 % (arXiv 2510.26788); 0 takes all problems."""
    reward: Literal["grade", "random"] = "grade"
    """"random" tosses a coin for each answer: a control from which nothing may be learnt."""
    reference_every: int = 0
    """Steps after which the KL term's reference becomes the policy of that moment; 0 keeps the first one."""
    evaluate_every: int = 0
    """Steps between evaluations, beside those before the first step and at the end; 0 for none at all."""
    max_tokens: int = 4096
    """Rows in a micro-batch: bounds memory, changes no result."""
    recompute: bool = False
    """Compute activations again in the backward pass: a third more work, much less memory."""
    seed: int = 0
    """Of sampling, of the order of problems, and of LoRA's start."""
    threads: int | None = None
    """Default: the physical cores. Changes no result."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    overlong: Overlong = field(default_factory=Overlong)
    lora: LoraConfig | None = None
    """A table [lora] trains low-rank differences instead of all weights."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(lr=3e-6, weight_decay=0.0))
    extras: ExtrasConfig = field(default_factory=lambda: ExtrasConfig(bias_rate=0.0, balance=0.0, mtp=0.0))
    evaluation: EvaluateConfig = field(default_factory=EvaluateConfig)
    run: RunConfig

    def __post_init__(self) -> None:
        checks = (
            ("steps", self.steps >= 1, "at least 1"),
            ("problems_per_step", self.problems_per_step >= 1, "at least 1"),
            ("group_size", self.group_size >= 2, "at least 2: an answer is compared with the others"),
            ("max_refills", self.max_refills >= 0, "0 or a number of problems"),
            ("inner_epochs", self.inner_epochs >= 1, "at least 1"),
            ("perfectible", self.perfectible >= 0, "0 or a number of answers"),
            ("reference_every", self.reference_every >= 0, "0 or a number of steps"),
            ("evaluate_every", self.evaluate_every >= 0, "0 or a number of steps"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be {expected}")
        if self.reference_every and not self.policy.kl:
            raise ConfigError(f"reference_every = {self.reference_every}: it needs policy.kl over 0")
        if self.max_refills and self.advantage.baseline == "batch":
            raise ConfigError(
                f"max_refills = {self.max_refills} with advantage.baseline = 'batch', where every "
                "group has a signal; set one of them to another value"
            )


def grpo(config: GrpoConfig, *, resume: bool = False, view: View | None = None) -> Path | None:
    """Train as `config` says; the folder of the resulting model, or None if no step was done.

    The run's report is written with every checkpoint. The first SIGINT or SIGTERM drops the step that is
    being sampled, and saves a checkpoint of those before. Raises MohistError.
    """
    view = view or Quiet()
    with (
        Run.open(config, config.run, resume=resume) as run,
        closing(config.task.make()) as task,
        on_request() as stop,
    ):
        view.begin(str(run.folder), step=run.step, steps=config.steps)
        policy = Policy(config, run)
        llm, learner, loss = policy.sampler.llm, policy.learner, policy_loss(config.policy)
        books = Books(run, llm, view)
        examiner = Examiner(config, task, llm, view, stop)
        order = _order(config, policy.loop, examiner, books)
        if run.step == 0:
            start = examiner.evaluate() if config.evaluate_every else []
            books.close_start({"evaluation": books.evaluated(0, start)} if start else {})

        step, state = run.step, order.state()
        while step < config.steps and not stop.requested:
            asked = examiner.ask(step + 1, order)
            if stop.requested:
                break
            step, state = step + 1, order.state()
            books.sampled([*asked.groups, *asked.replaced])

            rewards = [examiner.rewards(step, group) for group in asked.groups]
            advantage = advantages(rewards, config.advantage)
            samples = to_samples(
                asked.groups,
                advantage,
                config.policy.weighing,
                max_tokens=config.sampling.max_tokens,
                drop_truncated=config.overlong.drop,
            )
            batches = policy.prepared(learner.pack(samples, max_tokens=config.max_tokens))
            metrics = measured(asked, advantage) | policy.learn(batches, loss, epochs=config.inner_epochs)
            books.trained(metrics.get("num_tokens", 0), passes=policy.num_passes)

            if config.reference_every and step % config.reference_every == 0:
                policy.refresh_reference()
            if config.evaluate_every and (step % config.evaluate_every == 0 or step == config.steps):
                metrics["evaluation"] = books.evaluated(step, examiner.evaluate())
            books.close_step(step, asked, advantage, metrics)
            if run.is_due(step):
                policy.save(step, state)
                write_report(run.folder)
        if not step:
            return None
        policy.save(step, state)
        write_report(run.folder)
        return policy.finish(step)


def plan(config: GrpoConfig) -> str:
    """What `grpo` would need at most, for people: as if every answer were as long as it may be."""
    outline, chat = load_outline(config.model)
    sampling, group_size = config.sampling, config.group_size
    with closing(config.task.make()) as task:
        problems = task.problems("train", min(config.num_problems or PLANNED, PLANNED), seed=config.seed)
    prompt = fmean(len(chat.render(p.messages, thinking=sampling.thinking)) for p in problems)
    rows = round(config.problems_per_step * (prompt + group_size * sampling.max_tokens))
    context = min(outline.max_positions, round(prompt) + sampling.max_tokens)
    cache = 4 * cache_values_per_token(outline) * sampling.max_running * context
    reference = 4 * parameters(outline) if config.policy.kl and config.lora is None else 0
    return Plan(
        model=outline,
        num_samples=config.steps * config.problems_per_step * group_size,
        steps=config.steps,
        num_tokens=config.steps * rows,
        max_tokens=min(config.max_tokens, rows),
        recompute=config.recompute,
        is_lora=config.lora is not None,
        passes=1 + 3 * config.inner_epochs + bool(config.policy.kl),
        extra_bytes=cache + reference,
        prices=config.run.prices,
    ).text(flops_per_second(config.threads))


def _order(config: GrpoConfig, loop: Mapping[str, Any], examiner: Examiner, books: Books) -> ProblemOrder:
    """The problems to learn from, in order, from the place that a checkpoint's `loop` state names."""
    problems = examiner.problems()
    chosen = loop.get("chosen")
    if chosen is None and config.perfectible:
        chosen, groups = examiner.perfectible(problems)
        books.sampled(groups, "perfectible")
    return ProblemOrder(problems, seed=config.seed, chosen=chosen, position=loop.get("position", 0))
