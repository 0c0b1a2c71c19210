"""Any generator of reasoning-gym (https://github.com/open-thought/reasoning-gym) by name.

Some generators make all their problems at once, so ours come from many small datasets: problem number i is in
the dataset whose seed is a hash of i // BATCH. Scorers run only in a jail, since several of them evaluate an
answer as Python; answers that could call something are kept from those (`may_call`).
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from mohist.errors import ConfigError, TaskError
from mohist.tasks.answers import Place
from mohist.tasks.extras import need
from mohist.tasks.generated import draw_distinct, split_of_key
from mohist.tasks.problem_file import canonical_question
from mohist.tasks.sandbox.jail import no_jail
from mohist.tasks.scoring import Verdict, grade_message, wrong
from mohist.tasks.task import Split, Task, TaskConfig
from mohist.tasks.workers import OutOfLimits, WorkerLimits, Workers
from mohist.types import Grade, Message, Problem

__all__ = ["CONFIG", "GymConfig", "handle", "may_call", "start"]

BATCH = 16
"""Problems in a dataset."""
CHECKED = 4
"""Problems that the scorer is tried out on."""
NONSENSE = "banana"
DRAWING = WorkerLimits(cpu_s=120, wall_s=600.0, memory_bytes=4 << 30)


@dataclass(frozen=True, kw_only=True)
class GymConfig(TaskConfig):
    """One generator and its settings."""

    name: str = "gym"
    system: str = "Think first, then give your final answer between <answer> and </answer>."
    extract: tuple[Place, ...] = ("tag", "boxed", "answer")
    generator: str
    """Its name in reasoning-gym, such as chain_sum or zebra_puzzles."""
    settings: tuple[str, ...] = ()
    """Fields of the generator's own config, as key=value with the value in JSON: min_terms=2."""
    partial_credit: bool = False
    """Whether accuracy is the generator's score, which may lie between 0 and 1, and above 0 for an answer
    that is plain wrong (0.01 in countdown). Otherwise it is 1 for a score of 1, and 0 for any other."""
    cpu_s: int = 5
    """Processor time for scoring one answer, in seconds; an answer that takes more is wrong."""

    def make(self) -> Task:
        """See `TaskConfig`."""
        need("reasoning_gym", "gym", "the task gym")
        if reason := no_jail():
            raise TaskError(
                "the task gym cannot be used: its scorers may evaluate an answer as Python, so they run only "
                f"in a jail, and there is none: {reason}"
            )
        task = Gym(self)
        try:
            task.check()
        except BaseException:
            task.close()
            raise
        return task


class Gym:
    """One dataset, kept by worker processes."""

    name = "gym"

    def __init__(self, config: GymConfig) -> None:
        self._config = config
        setup = {"generator": config.generator, "settings": _settings(config.settings)}
        limits = WorkerLimits(cpu_s=config.cpu_s, memory_bytes=DRAWING.memory_bytes)
        self._workers = Workers(__name__, limits=limits, setup=setup, jailed=True)
        self._evaluates = False

    def check(self) -> None:
        """See whether the scorer tells right from wrong on the first problems. TaskError if it does not."""
        self._evaluates = bool(self._workers.ask({"evaluates": True}, limits=DRAWING))
        for problem in self._batch(0)[:CHECKED]:
            right = problem.answer["answer"]
            if self._judge(NONSENSE, problem.answer).accuracy == 1.0:
                self._distrust(problem, f"full marks for {NONSENSE!r}")
            if right is not None and self._judge(str(right), problem.answer).accuracy < 1.0:
                self._distrust(problem, f"less than full marks for its own answer {right!r:.80}")

    def _distrust(self, problem: Problem, gives: str) -> NoReturn:
        raise TaskError(
            f"the scorer of {self._config.generator} is not to be trusted: it gives {gives}, asked "
            f"{problem.question!r:.200}; choose another generator"
        )

    def problems(self, split: Split, count: int, *, seed: int = 0) -> list[Problem]:
        """See `Task`."""
        first = BATCH * int.from_bytes(hashlib.blake2b(f"gym {seed}".encode(), digest_size=5).digest())
        batch: list[Problem] = []

        def draw(index: int) -> Problem | None:
            nonlocal batch
            if index % BATCH == 0:
                batch = self._batch(first + index)
            problem = batch[index % BATCH]
            return problem if self.split_of(problem) == split else None

        where = f"task gym, generator {self._config.generator}, split {split}"
        return draw_distinct(draw, _key, count, where)

    def split_of(self, problem: Problem) -> Split:
        """See `Task`."""
        return split_of_key(_key(problem), self._config.test_fraction)

    def size(self, split: Split) -> int | None:
        """See `Task`: nobody counts what a generator could make."""
        return None

    def grade(self, problem: Problem, message: Message) -> Grade:
        """See `Task`."""
        return grade_message(self._config, problem, message, self._judge)

    def close(self) -> None:
        """See `Task`."""
        self._workers.close()

    def _batch(self, first: int) -> list[Problem]:
        try:
            drawn = self._workers.ask({"first": first}, limits=DRAWING)
        except OutOfLimits as error:
            raise TaskError(
                f"generator {self._config.generator}: drawing {BATCH} problems takes {error}"
            ) from error
        return [
            Problem(
                id=f"{self._config.generator} {first + i}",
                question=question,
                answer={"index": first + i, "answer": answer},
                system=self._config.system,
            )
            for i, (question, answer) in enumerate(drawn)
        ]

    def _judge(self, answer: str, expected: Any) -> Verdict:
        if self._evaluates and may_call(answer):
            return wrong("it holds Python that could call something")
        try:
            score, note = self._workers.ask({"index": expected["index"], "answer": answer})
        except OutOfLimits as error:
            return wrong(f"scoring it takes {error}")
        if not self._config.partial_credit:
            score = float(score >= 1.0)
        return Verdict(score, "" if score == 1.0 else note or f"not {expected['answer']!r:.200}")


def _key(problem: Problem) -> str:
    return canonical_question(problem.question)


def _settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """{"min_terms": 2} from ("min_terms=2",). ConfigError for what is not of that form."""
    found = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        try:
            found[key.strip()] = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"task.settings: {setting!r}: expected key=value, the value in JSON") from error
    return found


MATHEMATICS = frozenset(
    (
        *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
        *("exp", "log", "sqrt", "Rational", "Abs", "True", "False", "None"),
    )
)


def may_call(answer: str) -> bool:
    """Whether evaluating `answer` as Python could call anything but a mathematical function.

    Nothing is called without a parenthesis, an attribute or an f-string. What has one of these must be a
    literal, or a formula: numbers, operators, names of one or two letters, and functions in MATHEMATICS.
    """
    if not re.search(r"[({]|\.\s*[^\W\d]", answer):
        return False
    try:
        ast.literal_eval(answer.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        names = re.findall(r"[^\W\d]\w*", answer)
        foreign = [name for name in names if len(name) > 2 and name not in MATHEMATICS]
        return bool(foreign) or re.search(r"[\"'{_\\]|\.\s*[^\W\d]", answer) is not None
    return False


def start(setup: Any) -> Any:
    """See `mohist.tasks.worker.Service`: what makes a dataset of a seed."""
    import difflib
    import functools
    import inspect

    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    name, settings = setup["generator"], setup["settings"]
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(DATASETS))}"
        raise ConfigError(f"task.generator = {name!r}: no such generator; {hint}")
    known = list(inspect.signature(DATASETS[name][1]).parameters)
    for key in settings:
        if key not in known or key in ("seed", "size"):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"task.settings: {key}: no such setting of {name}; {hint}")
    make = functools.partial(reasoning_gym.create_dataset, name, size=BATCH, **settings)
    try:
        make(seed=0)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"task.settings of {name}: {error}") from error
    return make


def handle(state: Any, request: Any) -> Any:
    """See `mohist.tasks.worker.Service`: questions and answers, a score, or whether the scorer evaluates."""
    import inspect
    import sys

    if "evaluates" in request:
        source = inspect.getsource(sys.modules[type(state(seed=0)).__module__])
        return re.search(r"\b(?:eval|exec|parse_expr|sympify)\(", source) is not None
    number = request.get("index", request.get("first"))
    digest = hashlib.blake2b(str(number // BATCH).encode(), digest_size=4).digest()
    dataset = state(seed=int.from_bytes(digest))
    if "first" in request:
        return [(entry["question"], entry["answer"]) for entry in (dataset[i] for i in range(BATCH))]
    return _score(dataset, request["answer"], dataset[number % BATCH])


def _score(dataset: Any, answer: str, entry: Any) -> tuple[float, str]:
    """Score and note. A scorer that raises finds an answer wrong if it still approves of its own."""
    try:
        return float(dataset.score_answer(answer, entry)), ""
    except Exception as error:
        if entry["answer"] is None or dataset.score_answer(str(entry["answer"]), entry) < 1.0:
            raise
        return 0.0, f"the scorer raised {type(error).__name__}: {error}"[:300]


CONFIG = GymConfig
