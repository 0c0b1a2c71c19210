"""How much of a text is in a language, by its letters alone: a heuristic, not a language detector.

Units are words in an alphabet and single characters in Han. English is told from other languages only by its
letters (a to z), so German without umlauts passes for it; Chinese is whatever is written in Han characters,
and kana or hangul count against it. Mathematics belongs to no language: LaTeX commands, single Latin letters
and numbers are not units.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Language", "share_in"]

Language = Literal["en", "zh"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_NOT_LANGUAGE = re.compile(r"\\[A-Za-z]+|</?[A-Za-z]+>")
_UNIT = re.compile(rf"[{_HAN}]|[^\W\d_{_HAN}]+")


def share_in(text: str, language: Language) -> float:
    """The share of units of `text` in `language`, 0 to 1; 1 where there are no units at all."""
    units = [
        _language(unit) for unit in _UNIT.findall(_NOT_LANGUAGE.sub(" ", text)) if not _is_variable(unit)
    ]
    return units.count(language) / len(units) if units else 1.0


def _language(unit: str) -> Language | None:
    if unit.isascii():
        return "en"
    return "zh" if re.match(f"[{_HAN}]", unit) else None


def _is_variable(unit: str) -> bool:
    """Whether it is a single Latin letter: a variable (or the article, or I)."""
    return len(unit) == 1 and unit.isascii()
