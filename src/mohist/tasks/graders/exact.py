"""Exactly the text that is expected, or one of several."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.scoring import RIGHT, Verdict, wrong

__all__ = ["CONFIG", "ExactConfig"]


@dataclass(frozen=True, kw_only=True)
class ExactConfig(GraderConfig):
    """Compares texts; how a character is composed in Unicode and how long a run of spaces is do not count."""

    name: str = "exact"
    ignore_case: bool = False
    """Whether capital and small letters are the same."""

    def make(self) -> Grader:
        """See `GraderConfig`."""
        return Exact(self)


class Exact:
    """Expects a text or number, or a list of them of which one is enough."""

    def __init__(self, config: ExactConfig) -> None:
        self._config = config

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        texts = expected if isinstance(expected, list) else [expected]
        fine = texts and all(isinstance(text, (str, int, float)) and self._normal(text) for text in texts)
        return None if fine else "a text, a number, or a list of them"

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        texts = expected if isinstance(expected, list) else [expected]
        if any(self._normal(answer) == self._normal(text) for text in texts):
            return RIGHT
        return wrong(f"{answer!r:.80}, not {' or '.join(map(str, texts)):.80}")

    def close(self) -> None:
        """See `Grader`: there is nothing to end."""

    def _normal(self, text: str | float) -> str:
        normal = " ".join(unicodedata.normalize("NFC", str(text)).split())
        return normal.casefold() if self._config.ignore_case else normal


CONFIG = ExactConfig
