"""A pattern that the whole answer must match, in bounded time: some patterns take forever on some answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.workers import OutOfLimits, WorkerLimits, Workers

__all__ = ["CONFIG", "RegexConfig", "handle", "start"]


@dataclass(frozen=True, kw_only=True)
class RegexConfig(GraderConfig):
    """Matches with Python's `re`, in a process of its own."""

    name: str = "regex"
    ignore_case: bool = False
    """Whether capital and small letters are the same."""
    cpu_s: int = 2
    """Processor time for one answer, in seconds; an answer that takes more is wrong."""

    def make(self) -> Grader:
        """See `GraderConfig`."""
        return Regex(self)


class Regex:
    """Expects a pattern."""

    def __init__(self, config: RegexConfig) -> None:
        self._flags = re.IGNORECASE if config.ignore_case else re.NOFLAG
        self._workers = Workers(__name__, limits=WorkerLimits(cpu_s=config.cpu_s))

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        if not isinstance(expected, str):
            return "a pattern, which is a text"
        try:
            re.compile(expected, self._flags)
        except re.error as error:
            return f"a pattern of Python's re; this one fails: {error}"
        return None

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        try:
            matches = self._workers.ask({"pattern": expected, "flags": int(self._flags), "text": answer})
        except OutOfLimits as error:
            return wrong(f"matching it takes {error}")
        return RIGHT if matches else wrong(f"{answer!r:.80} does not match {expected!r:.80}")

    def close(self) -> None:
        """See `Grader`."""
        self._workers.close()


def start(_setup: Any) -> None:
    """See `mohist.tasks.worker.Service`: there is nothing to import."""


def handle(_state: Any, request: Any) -> bool:
    """See `mohist.tasks.worker.Service`: whether the text matches."""
    return re.fullmatch(request["pattern"], request["text"], request["flags"]) is not None


CONFIG = RegexConfig
