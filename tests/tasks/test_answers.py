"""Where answers are found, and that looking for them never hangs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.tasks.answers import Place, find_answer


@pytest.mark.parametrize(
    ("place", "content", "expected"),
    [
        ("boxed", r"so \boxed{41} or rather \boxed{ 42 }.", "42"),
        ("boxed", r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", r"\boxed{\{1, 2\}} ok", r"\{1, 2\}"),
        ("boxed", r"\boxed{never closed", None),
        ("boxed", r"\boxed{}", None),
        ("boxed", "boxed{3}", None),
        ("tag", "<answer>1</answer> no, <answer> 2 </answer>", "2"),
        ("tag", "<answer>1", None),
        ("tag", "1</answer><answer>", None),
        ("answer", "Answer: 1\nThe final answer is: **3/4**\nthanks", "3/4"),
        ("answer", "**Answer:** B", "B"),
        ("answer", "**Answer**: B", "B"),
        ("answer", "想一想。\n答案：四十二", "四十二"),
        ("answer", "the answer 42", None),
        ("answer", "Answer:", None),
        ("number", "10 - 3 = 7, surely", "7"),
        ("number", "it costs $1,234.50.", "1,234.50"),
        ("number", "x-5", "5"),
        ("number", "minus: -5", "-5"),
        ("number", "3/4, 5,", "5"),
        ("number", "none", None),
        ("line", "first\n\n last \n\n", "last"),
        ("line", " \n", None),
        ("code", "```python\na = 1\n```\nand\n```\nb = 2\n```\n", "b = 2"),
        ("code", "```python\na = 1\n```\nand\n```\nb = 2", "a = 1"),
        ("code", "a = 1", None),
        ("whole", "  a b \n", "a b"),
        ("whole", " ", None),
    ],
)
def test_places(place: Place, content: str, expected: str | None) -> None:
    found = find_answer(content, [place])
    assert (found and found.text) == expected


def test_the_first_place_with_an_answer_counts() -> None:
    places: tuple[Place, ...] = ("boxed", "answer", "number")
    found = find_answer("1\nAnswer: 2", places)
    assert found is not None
    assert (found.text, found.place) == ("2", "answer")
    found = find_answer(r"\boxed{3} Answer: 2", places)
    assert found is not None
    assert (found.text, found.place) == ("3", "boxed")


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}\\")))
def test_what_is_boxed_last_is_found(before: str, inside: str) -> None:
    found = find_answer(f"{before}\\boxed{{{inside}}}", ["boxed"])
    assert (found and found.text) == (inside.strip() or None)


@pytest.mark.parametrize(
    "piece",
    [
        *("\\boxed{", "{", "}", "<answer>", "</answer>", "answer", "answer: ", "答案 ", "1,", "-", "1/"),
        *("1.", "```", "```\n", " ", "\n", "*", "9"),
    ],
)
@pytest.mark.parametrize("place", ["boxed", "tag", "answer", "number", "line", "code", "whole"])
def test_searching_takes_linear_time(piece: str, place: Place) -> None:
    content = piece * 100_000
    start = time.process_time()
    find_answer(content, [place])
    assert time.process_time() - start < 2
