"""Numbers and expressions are read exactly; what is no number is refused, quickly."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.tasks.expression import ExpressionError, evaluate
from mohist.tasks.numbers import parse_number, parse_quantity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", Fraction(42)),
        (" -3/4 ", Fraction(-3, 4)),
        ("−3", Fraction(-3)),
        ("+.5", Fraction(1, 2)),
        ("1,234,567.25", Fraction(4938269, 4)),
        (r"$\frac{3}{4}$", Fraction(3, 4)),
        (r"-\dfrac{3}{4}", Fraction(-3, 4)),
        (r"1{,}000", Fraction(1000)),
        ("2e-3", Fraction(1, 500)),
        (r"6.02 \times 10^{23}", Fraction(602 * 10**21)),
        ("50%", Fraction(1, 2)),
        (r"50\%", Fraction(1, 2)),
        ("$12.", Fraction(12)),
        ("12,34", None),
        (r"1\frac{1}{2}", None),
        ("1/0", None),
        ("", None),
        ("12 apples", None),
        ("3 4", None),
        ("1e999999999", None),
        ("1e-401", None),
        ("9" * 1001, None),
        ("x = 3", None),
        ("٣", None),
    ],
)
def test_parse_number(text: str, expected: Fraction | None) -> None:
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3.5 m/s", (Fraction(7, 2), "m/s")),
        (r"3 \text{ km}", (Fraction(3), "km")),
        ("€ 12", (Fraction(12), "€")),
        ("12 €", (Fraction(12), "€")),
        ("3/4 cup", (Fraction(3, 4), "cup")),
        ("2e3 Hz", (Fraction(2000), "Hz")),
        ("30°", (Fraction(30), "°")),
        ("m 3", None),
    ],
)
def test_parse_quantity(text: str, expected: tuple[Fraction, str] | None) -> None:
    assert parse_quantity(text) == expected


@given(st.fractions())
def test_fractions_come_back(value: Fraction) -> None:
    assert parse_number(str(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3))
def test_decimals_come_back(value: object) -> None:
    assert parse_number(str(value)) == Fraction(str(value))


@given(st.text(alphabet="0123456789.,/eE+-*×^{}$%\\ frac€"))
def test_any_text_is_a_number_or_not(text: str) -> None:
    value = parse_number(text)
    assert value is None or isinstance(value, Fraction)


TREES = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]}{t[2]})"),
    max_leaves=12,
)


@given(TREES)
def test_expressions_have_the_value_that_python_gives_them(text: str) -> None:
    exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in _split(text))
    try:
        expected = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="divides by zero"):
            evaluate(text)
    else:
        assert evaluate(text).value == expected


def _split(text: str) -> list[str]:
    for sign in "+-*/()":
        text = text.replace(sign, f" {sign} ")
    return text.split()


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from("+-*/")), min_size=1, max_size=20))
def test_precedence_is_pythons(pairs: list[tuple[int, str]]) -> None:
    words = [word for number, sign in pairs for word in (str(number), sign)][:-1]
    found = evaluate("".join(words))
    assert found.value == eval(" ".join(f"Fraction({w})" if w.isdigit() else w for w in words))
    assert found.numbers == tuple(number for number, _ in pairs)
    assert found.operators == tuple(sign for _, sign in pairs[:-1])


@given(st.text(alphabet="0123456789+-*/() x×÷"))
def test_any_text_is_an_expression_or_not(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert evaluate(text).numbers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no numbers"),
        ("()", "out of place"),
        ("1 +", "ends where a number should follow"),
        ("1 2", "out of place"),
        ("-1", "out of place"),
        ("(1", "never closed"),
        ("1)", "never opened"),
        ("2**3", "out of place"),
        ("2^3", "'\\^' is not arithmetic"),
        ("1/(2-2)", "divides by zero"),
        ("__import__('os')", "'_' is not arithmetic"),
        ("1.5", "'.' is not arithmetic"),
        ("٣", "is not arithmetic"),
        ("9" * 1001, "at most 1000"),
    ],
)
def test_what_is_no_expression_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        evaluate(text)


def test_typographic_signs_and_latex_are_understood() -> None:
    assert evaluate(r"\left(3 \times 4\right) ÷ 2 − 1").value == 5


@pytest.mark.parametrize("text", ["9*" * 499 + "9", "(" * 499 + "1" + ")" * 499, "1/3+" * 249 + "1"])
def test_the_longest_expressions_are_quick(text: str) -> None:
    start = time.process_time()
    evaluate(text)
    assert time.process_time() - start < 0.5
