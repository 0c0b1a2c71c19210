"""Mohist's trainers, one step at a time. Imported in its own process only."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from bench.rl_steps import LR, MOST_STEPS, Steps
from bench.rl_work import (
    GROUP_SIZE,
    PROBLEMS,
    SFT_SAMPLES,
    SFT_TOKENS,
    WORKLOADS,
    RlWorkload,
    lengths,
    question,
    reward,
    sft_tokens,
    single_token_words,
)
from mohist.data.order import shuffled
from mohist.engine.engine import Engine
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.twin import TorchOps
from mohist.tasks.task import Split, TaskConfig
from mohist.train import models, sampler
from mohist.train.grpo import GrpoConfig, grpo
from mohist.train.learner import Learner
from mohist.train.losses import cross_entropy
from mohist.train.models import load_model, training_ops
from mohist.train.optim import OptimConfig
from mohist.train.run import RunConfig
from mohist.train.sampler import SamplingConfig
from mohist.train.sft import SftConfig
from mohist.train.terminal import Quiet
from mohist.train.weights import weigh
from mohist.types import Grade, Message, Problem, Request, Sample, SamplingParams

__all__ = ["Grpo", "Sft", "be_inexact"]

NUM_PROBLEMS = PROBLEMS * 64
MICRO_BATCH_ROWS = 1536
"""About as many as TRL computes at once."""


def be_inexact() -> None:
    """Train and sample on PyTorch's kernels from now on."""

    def inexact_ops(threads: int | None) -> TrainingOps:
        torch.set_num_threads(threads or torch.get_num_threads())
        return TrainingOps(TorchOps(torch.device("cpu")))

    models.training_ops = inexact_ops  # ty: ignore[invalid-assignment]


class Grpo(Steps):
    """`grpo` with run folder, logs and all. Every answer has a limit of its own, and no other end."""

    def __init__(self, folder: str, work: RlWorkload, threads: int) -> None:
        super().__init__()
        torch.set_num_threads(threads)
        config = GrpoConfig(
            model=folder,
            task=BenchTaskConfig(work=work.name, folder=folder),
            steps=MOST_STEPS,
            problems_per_step=PROBLEMS,
            group_size=GROUP_SIZE,
            sampling=SamplingConfig(max_tokens=work.limit),
            max_tokens=MICRO_BATCH_ROWS,
            optim=OptimConfig(lr=LR, weight_decay=0.0),
            threads=threads,
            run=RunConfig(folder=Path(tempfile.mkdtemp()) / "run", save_every=0),
        )
        sampler.Engine = _with_lengths(work)  # ty: ignore[invalid-assignment]
        self.begin(lambda: grpo(config, view=_Turns(self)))


class Sft(Steps):
    """Packing, gradients and update of `mohist sft`."""

    def __init__(self, folder: str, threads: int) -> None:
        super().__init__()
        model = load_model(folder, threads=threads)
        learner = Learner(model.decoder, OptimConfig(lr=LR, weight_decay=0.0), total_steps=MOST_STEPS)
        vocab_size = model.decoder.config.vocab_size

        def loop() -> None:
            for step in range(MOST_STEPS):
                tokens = [sft_tokens(vocab_size, step * SFT_SAMPLES + i) for i in range(SFT_SAMPLES)]
                self.wait()
                start = perf_counter()
                samples = [Sample(tokens=tuple(t), weights=(1.0,) * SFT_TOKENS) for t in tokens]
                batches = learner.pack(weigh(samples, "token"), max_tokens=SftConfig.max_tokens)
                learner.forward_backward(batches, cross_entropy)
                learner.optim_step()
                self.done(perf_counter() - start, 0.0)

        self.begin(loop)


class _Turns(Quiet):
    """Waits between steps, and times what lies between."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._start = 0.0

    def begin(self, title: str, *, step: int, steps: int) -> None:
        """Nothing is timed before the first step: that one includes loading, and does not count."""
        self._steps.wait()
        self._start = perf_counter()

    def step(self, step: int, metrics: Mapping[str, Any], cost: str) -> None:
        """A step is over: everything but the training of it is generation."""
        assert metrics["mismatch"] == 0.0 or models.training_ops is not training_ops
        seconds = perf_counter() - self._start
        self._steps.done(seconds, seconds - metrics["train_s"])
        self._steps.wait()
        self._start = perf_counter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchTaskConfig(TaskConfig):
    """Questions of exactly so many tokens, whose answers are right as the work says."""

    name: str = "bench"
    work: str
    folder: str

    def make(self) -> BenchTask:
        """See `TaskConfig`."""
        return BenchTask(self)


class BenchTask:
    """A `Task` whose grades depend on nothing but the place of an answer."""

    name = "bench"

    def __init__(self, config: BenchTaskConfig) -> None:
        self._work, self._words = WORKLOADS[config.work], single_token_words(config.folder)
        self._places = {int(i): place for place, i in enumerate(shuffled(NUM_PROBLEMS, 0))}
        self._num_graded = [0] * NUM_PROBLEMS
        self._lock = threading.Lock()

    def problems(self, split: Split, count: int, *, seed: int = 0) -> list[Problem]:
        """See `Task`."""
        questions = [question(self._words, self._work, i) for i in range(count)]
        return [Problem(id=str(i), question=text, answer=None) for i, text in enumerate(questions)]

    def split_of(self, problem: Problem) -> Split:
        """See `Task`."""
        return "train"

    def size(self, split: Split) -> int:
        """See `Task`."""
        return NUM_PROBLEMS

    def grade(self, problem: Problem, message: Message) -> Grade:
        """See `Task`."""
        index = int(problem.id)
        with self._lock:
            sample = self._num_graded[index] % GROUP_SIZE
            self._num_graded[index] += 1
        return Grade(reward=reward(self._work, self._places[index], sample))

    def close(self) -> None:
        """See `Task`."""


def _with_lengths(work: RlWorkload) -> type[Engine]:
    """An engine that gives each answer of a step its own limit."""

    class LimitedEngine(Engine):
        def __init__(self, *options: Any) -> None:
            super().__init__(*options)
            self._asked = itertools.count()

        def submit(
            self,
            prompt: Iterable[int] | Request,
            params: SamplingParams | None = None,
            *,
            num_samples: int = 1,
            salt: bytes = b"",
        ) -> list[int]:
            assert params is not None
            assert not isinstance(prompt, Request)
            step, place = divmod(next(self._asked), PROBLEMS)
            tokens, ids = tuple(prompt), []
            assert len(tokens) == work.prompt
            for i, length in enumerate(lengths(work, step)[place * GROUP_SIZE :][:num_samples]):
                own = params.replace(max_tokens=length, stop_tokens=())
                ids += super().submit(Request(prompt=tokens, params=own, sample=i), salt=salt)
            return ids

    return LimitedEngine
