"""Multiple choice: the letter of the right option, or of several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mohist.errors import ConfigError
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.scoring import RIGHT, Verdict, wrong

__all__ = ["CONFIG", "ChoiceConfig"]

_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf|rm)(?![A-Za-z])|[${}*\s]")


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig(GraderConfig):
    """Reads B, (b), B. Paris and $\\text{B}$ as B; several letters, as in `A, C`, where several are right."""

    name: str = "choice"
    letters: str = "ABCDEFGH"
    """The letters of the options."""

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]+", self.letters):
            raise ConfigError(f"letters = {self.letters!r}: it must be capital letters, such as ABCD")

    def make(self) -> Grader:
        """See `GraderConfig`."""
        return Choice(self)


class Choice:
    """Expects a letter, or several in one text: "B", "AC"."""

    def __init__(self, config: ChoiceConfig) -> None:
        self._letters = config.letters

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        fine = isinstance(expected, str) and self._chosen(expected) == frozenset(expected)
        return None if fine else f"one or more of the letters {self._letters}"

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        chosen = self._chosen(answer)
        if not chosen:
            return wrong(f"none of the letters {self._letters}: {answer!r:.80}")
        return RIGHT if chosen == frozenset(expected) else wrong(f"{''.join(sorted(chosen))}, not {expected}")

    def close(self) -> None:
        """See `Grader`: there is nothing to end."""

    def _chosen(self, answer: str) -> frozenset[str]:
        """The letters that an answer starts with: a word that starts with one of them is none."""
        text = _LATEX.sub(" ", answer.replace("（", "(").replace("）", ")")).strip()
        capitals, small = f"[{self._letters}]", f"[{self._letters.lower()}]"
        listed = rf"\(?{capitals}\)?(?: ?(?:,|，|、|;|and|和) ?\(?{capitals}\)?)*"
        match = re.match(rf"{capitals}{{2,}}|{listed}|\(?{small}\)?", text)
        if match is None:
            return frozenset()
        rest = text[match.end() :].lstrip()
        if rest[:1].isalnum() and not match[0].endswith(")"):
            return frozenset()
        return frozenset(re.findall(capitals, match[0].replace("and", "").upper()))


CONFIG = ChoiceConfig
