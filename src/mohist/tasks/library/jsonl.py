"""A user's own problems, in a file of one JSON object a line, graded by a grader chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mohist.errors import ConfigError, TaskError
from mohist.tasks.answers import Place
from mohist.tasks.generated import split_of_key
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.graders.exact import ExactConfig
from mohist.tasks.problem_file import Entry, canonical_question, read_problems
from mohist.tasks.scoring import grade_message
from mohist.tasks.task import Split, Task, TaskConfig
from mohist.types import Grade, Message, Problem

__all__ = ["CONFIG", "JsonlConfig"]


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(TaskConfig):
    """Problems from a file; `mohist.tasks.problem_file` says what a line holds."""

    name: str = "jsonl"
    path: Path
    """The file. Without `test_path`, a hash of each question decides whether it is held out."""
    test_path: Path | None = None
    """A file of held-out problems; then all of `path` is held in. No question may be in both."""
    grader: GraderConfig = field(default_factory=ExactConfig)
    """What judges answers, unless a line names another."""
    extract: tuple[Place, ...] = ()
    """Where the answer is looked for, in this order; empty for where the grader looks."""

    def make(self) -> Task:
        """See `TaskConfig`."""
        task = Jsonl(self)
        try:
            task.read()
        except BaseException:
            task.close()
            raise
        return task


class Jsonl:
    """The problems of a file. Graders with equal settings are one."""

    name = "jsonl"

    def __init__(self, config: JsonlConfig) -> None:
        self._config = config
        self._graders: dict[GraderConfig, Grader] = {}
        self._entries: dict[Split, list[Entry]] = {"train": [], "test": []}
        self._places: dict[str, tuple[Split, GraderConfig]] = {}
        """By canonical question: the split of the problem, and its grader."""

    def read(self) -> None:
        """Read the files. Raises DataError or TaskError."""
        config = self._config
        asked: dict[str, str] = {}
        for path, given in ((config.path, "train"), (config.test_path, "test")):
            if path is None:
                continue
            entries = read_problems(
                path, system=config.system, grader=config.grader, open_grader=self._open, asked=asked
            )
            for entry in entries:
                question = canonical_question(entry.problem.question)
                split = split_of_key(question, config.test_fraction)
                if config.test_path is not None:
                    split = "test" if given == "test" else "train"
                self._entries[split].append(entry)
                self._places[question] = (split, entry.grader)

    def problems(self, split: Split, count: int, *, seed: int = 0) -> list[Problem]:
        """See `Task`."""
        entries: Sequence[Entry] = self._entries[split]
        if count > len(entries):
            raise ConfigError(
                f"task jsonl, split {split}: {count} problems were asked for and there are {len(entries)}"
            )
        order = list(range(len(entries)))
        Random(f"{split} {seed}").shuffle(order)
        return [entries[i].problem for i in order[:count]]

    def split_of(self, problem: Problem) -> Split:
        """See `Task`."""
        return self._place(problem)[0]

    def size(self, split: Split) -> int | None:
        """See `Task`."""
        return len(self._entries[split])

    def grade(self, problem: Problem, message: Message) -> Grade:
        """See `Task`."""
        grader = self._place(problem)[1]
        places = self._config.extract or grader.places
        return grade_message(self._config, problem, message, self._open(grader).judge, places=places)

    def close(self) -> None:
        """See `Task`."""
        for grader in self._graders.values():
            grader.close()

    def _place(self, problem: Problem) -> tuple[Split, GraderConfig]:
        question = canonical_question(problem.question)
        if question not in self._places:
            raise TaskError(f"problem {problem.id!r} is not in {self._config.path}")
        return self._places[question]

    def _open(self, config: GraderConfig) -> Grader:
        if config not in self._graders:
            self._graders[config] = config.make()
        return self._graders[config]


CONFIG = JsonlConfig
