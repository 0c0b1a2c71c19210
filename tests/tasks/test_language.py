from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.tasks.language import Language, share_in


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The answer is four.", "en", 1.0),
        ("The answer is four.", "zh", 0.0),
        ("答案是四。", "zh", 1.0),
        ("答案是 four", "zh", 0.75),
        ("用Python写", "en", 1 / 3),
        (r"\boxed{x + 2y} = 42", "zh", 1.0),
        ("", "en", 1.0),
        ("Ответ four", "en", 0.5),
        ("これは四", "zh", 0.5),
        ("<think>好</think>", "zh", 1.0),
    ],
)
def test_share_in(text: str, language: Language, expected: float) -> None:
    assert share_in(text, language) == expected


@given(st.text())
def test_languages_share_a_text(text: str) -> None:
    shares = [share_in(text, language) for language in ("en", "zh")]
    assert all(0 <= share <= 1 for share in shares)
    assert shares == [1.0, 1.0] or sum(shares) <= 1 + 1e-9
