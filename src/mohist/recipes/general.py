"""What happened to everything else: simple questions about other things, before and after."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from mohist.evaluate.evaluate import EvaluateConfig, evaluate
from mohist.evaluate.evaluation import Evaluation
from mohist.llm import LLM
from mohist.tasks.graders.regex import RegexConfig
from mohist.tasks.library.jsonl import JsonlConfig
from mohist.weights.files import write_whole

__all__ = ["GeneralConfig", "ask_general", "questions", "read_general"]


@dataclass(frozen=True, kw_only=True)
class GeneralConfig:
    """Questions asked greedily of the model that training starts from and of the one that comes out."""

    questions: Path = Path(str(files("mohist.recipes"))) / "general.jsonl"
    """A file of {"question", "answer"} lines; the answer is a pattern that the whole reply must match."""
    num_questions: int = 60
    """How many of them."""
    max_tokens: int = 48
    """Most tokens of a reply."""


def ask_general(config: GeneralConfig, source: str, file: Path, *, threads: int | None) -> Evaluation:
    """Ask the model at `source`, and keep what it said in `file`."""
    asked = EvaluateConfig(num_problems=config.num_questions, max_tokens=config.max_tokens)
    llm = LLM.load(source, threads=threads)
    with closing(questions(config).make()) as task:
        (found,) = evaluate(llm, task, asked)
    with write_whole(file) as out:
        out.write(json.dumps(found.to_json(), ensure_ascii=False).encode())
    return found


def questions(config: GeneralConfig) -> JsonlConfig:
    """The questions as a task, all of them held out."""
    return JsonlConfig(
        path=config.questions,
        test_fraction=1 - 1e-9,
        grader=RegexConfig(ignore_case=True),
        extract=("whole",),
    )


def read_general(file: Path) -> Evaluation:
    """What `ask_general` kept."""
    return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
