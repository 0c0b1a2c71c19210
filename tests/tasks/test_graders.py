"""Every grader tells right from wrong, names what it expects, and survives whatever an answer does to it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.config import dump_toml, from_dict
from mohist.errors import ConfigError, TaskError
from mohist.tasks.grader import Grader, GraderConfig, all_graders
from mohist.tasks.graders.choice import ChoiceConfig
from mohist.tasks.graders.exact import ExactConfig
from mohist.tasks.graders.json_schema import JsonSchemaConfig
from mohist.tasks.graders.math import MathConfig
from mohist.tasks.graders.numeric import NumericConfig
from mohist.tasks.graders.python import PythonConfig
from mohist.tasks.graders.regex import RegexConfig

Open = Callable[[GraderConfig], Grader]


@pytest.fixture(scope="module")
def open_grader() -> Iterator[Open]:
    """Graders that are closed at the end; equal ones are one."""
    graders: dict[GraderConfig, Grader] = {}

    def open_(config: GraderConfig) -> Grader:
        if config not in graders:
            try:
                graders[config] = config.make()
            except TaskError as error:
                pytest.skip(f"NOT TESTED: {error}")
        return graders[config]

    yield open_
    for grader in graders.values():
        grader.close()


def accuracy(grader: Grader, answer: str, expected: Any) -> float:
    assert grader.fault(expected) is None
    verdict = grader.judge(answer, expected)
    assert (verdict.note == "") == (verdict.accuracy == 1.0)
    return verdict.accuracy


def test_every_module_is_a_grader() -> None:
    configs = all_graders()
    assert set(configs) == {"choice", "exact", "json_schema", "math", "numeric", "python", "regex"}
    for name, config in configs.items():
        assert vars(config)["name"] == name
        assert config.places


def test_mistakes_in_a_config_are_named() -> None:
    for table, message in (
        ({"name": "numerc"}, "grader.name = 'numerc': no such name; did you mean numeric?"),
        (
            {"name": "numeric", "tolerance": 1.0},
            "grader.tolerance: no such key; did you mean grader.relative_tol",
        ),
        ({"name": "numeric", "relative_tolerance": -1.0}, "relative_tolerance = -1.0: it must be at least 0"),
        ({"name": "choice", "letters": "abc"}, "letters = 'abc': it must be capital letters"),
        ({"name": "python", "cpu_s": 0}, "cpu_s = 0: it must be at least 1"),
    ):
        with pytest.raises(ConfigError) as caught:
            from_dict(GraderConfig, table, prefix="grader.")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("Paris", "Paris", True),
        ("  the \n end ", "the end", True),
        ("paris", "Paris", False),
        ("Paris.", "Paris", False),
        ("Zoe\u0308", "Zo\u00eb", True),
        ("42", 42, True),
        ("b", ["a", "b"], True),
        ("c", ["a", "b"], False),
    ],
)
def test_exact(answer: str, expected: Any, right: bool, open_grader: Open) -> None:
    assert accuracy(open_grader(ExactConfig()), answer, expected) == right


def test_exact_may_ignore_case(open_grader: Open) -> None:
    assert accuracy(open_grader(ExactConfig(ignore_case=True)), "STRASSE", "straße") == 1.0


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("42", 42, True),
        ("42.0", "42", True),
        ("42.0001", 42, False),
        ("$1,234.50", 1234.5, True),
        (r"\frac{1}{2}", 0.5, True),
        ("50%", 0.5, True),
        ("50", "50%", False),
        ("3.5 m", "3.5 m", True),
        ("350 cm", "3.5 m", True),
        (r"3500\,\text{mm}", "3.5 m", True),
        ("3.5", "3.5 m", False),
        ("3.5 kg", "3.5 m", False),
        ("36 km/h", "10 m/s", True),
        ("9.8 m/s^2", "9.8 m/s^2", True),
        ("12 widgets", "12 widgets", True),
        ("12 gadgets", "12 widgets", False),
        ("twelve", 12, False),
    ],
)
def test_numeric(answer: str, expected: Any, right: bool, open_grader: Open) -> None:
    assert accuracy(open_grader(NumericConfig()), answer, expected) == right


def test_numeric_tolerances(open_grader: Open) -> None:
    relative = open_grader(NumericConfig(relative_tolerance=0.01, unit_optional=True))
    assert [accuracy(relative, text, "-200 m") for text in ("-198", "-202 m", "-0.197 km", "200")] == [
        1,
        1,
        0,
        0,
    ]
    absolute = open_grader(NumericConfig(absolute_tolerance=0.5))
    assert [accuracy(absolute, text, 0) for text in ("0.5", "-0.5", "0.51")] == [1, 1, 0]


@given(st.fractions(), st.floats(0, 10), st.fractions())
def test_numeric_is_right_within_the_tolerance_exactly(value: Any, tolerance: float, other: Any) -> None:
    grader = NumericConfig(absolute_tolerance=tolerance).make()
    assert grader.judge(str(other), str(value)).accuracy == (abs(other - value) <= tolerance)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("B", "B", True),
        ("b", "B", True),
        ("(b)", "B", True),
        ("（B）", "B", True),
        ("B. Paris", "B", True),
        ("B) Paris", "B", True),
        ("b) Paris", "B", True),
        (r"\text{B}", "B", True),
        (r"$\mathbf{(B)}$", "B", True),
        ("**B**", "B", True),
        ("B：巴黎", "B", True),
        ("C", "B", False),
        ("A, C", "AC", True),
        ("A and C", "AC", True),
        ("CA", "AC", True),
        ("A、C", "AC", True),
        ("A", "AC", False),
        ("ABC", "AC", False),
        ("Bad", "B", False),
        ("a dog", "A", False),
        ("A dog", "A", False),
        ("Z", "B", False),
        ("", "B", False),
    ],
)
def test_choice(answer: str, expected: str, right: bool, open_grader: Open) -> None:
    assert accuracy(open_grader(ChoiceConfig()), answer, expected) == right


@given(st.text())
def test_choice_reads_anything(answer: str) -> None:
    assert ChoiceConfig().make().judge(answer, "B").accuracy in (0.0, 1.0)


def test_regex(open_grader: Open) -> None:
    grader = open_grader(RegexConfig(cpu_s=1))
    assert accuracy(grader, "abab", "(ab)+") == 1.0
    assert accuracy(grader, "ababa", "(ab)+") == 0.0
    assert accuracy(grader, "ABAB", "(ab)+") == 0.0
    assert accuracy(open_grader(RegexConfig(ignore_case=True)), "ABAB", "(ab)+") == 1.0


def test_a_catastrophic_pattern_does_not_hang(open_grader: Open) -> None:
    grader = open_grader(RegexConfig(cpu_s=1))
    assert grader.judge("a" * 60, "(a|a)*b").note == "matching it takes more than 1 s of processor time"
    assert accuracy(grader, "aaab", "(a|a)*b") == 1.0


SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/name"}, "size": {"type": "integer", "minimum": 0}},
    "required": ["city"],
    "$defs": {"name": {"type": "string", "pattern": "^(a|a)*b?$"}},
}


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ('{"city": "aab", "size": 3}', ""),
        ('{"size": 3}', "$: 'city' is a required property"),
        ('{"city": "aab", "size": -3}', "$.size: -3 is less than the minimum of 0"),
        ("{city: 1}", "not JSON: Expecting property name"),
        ("[" * 100_000, "validating it takes more than its memory: RecursionError"),
        ('{"city": "' + "a" * 60 + 'c"}', "validating it takes more than 1 s of processor time"),
    ],
)
def test_json_schema(answer: str, note: str, open_grader: Open) -> None:
    grader = open_grader(JsonSchemaConfig(cpu_s=1))
    assert grader.fault(SCHEMA) is None
    verdict = grader.judge(answer, SCHEMA)
    assert verdict.note.startswith(note)
    assert verdict.accuracy == (not note)


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        (r"\frac{1}{2}", "1/2", True),
        ("0.5", "1/2", True),
        ("0.333", "1/3", False),
        ("50%", "0.5", True),
        (r"10\%", "10%", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"2\sqrt{2}", r"\sqrt{9}", False),
        ("(x+1)^2", "x^2 + 2x + 1", True),
        ("x^2 + 1", "x^2 + 2x + 1", False),
        ("(1, 2)", "(1,2)", True),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        ("x = 3", "3", True),
        (r"$\pi$", r"\pi", True),
        (r"2\sqrt{2} $ or $ 3", r"\sqrt{8}", False),
        ("banana", r"\sqrt{8}", False),
        (")(", r"\sqrt{8}", False),
        ("x" * 3000, r"\sqrt{8}", False),
    ],
)
def test_math(answer: str, expected: str, right: bool, open_grader: Open) -> None:
    assert accuracy(open_grader(MathConfig()), answer, expected) == right


def test_math_that_takes_forever_is_wrong_and_leaves_the_rest_unharmed(open_grader: Open) -> None:
    grader = open_grader(MathConfig(cpu_s=1))
    with ThreadPoolExecutor(4) as pool:
        notes = pool.map(lambda text: grader.judge(text, r"\sqrt{8}").note, ["9^{9^{9^9}}", r"2\sqrt{2}"] * 2)
        assert list(notes) == ["comparing '9^{9^{9^9}}' takes more than 1 s of processor time", ""] * 2


ADD = "def add(a, b):\n    return a {} b"


def test_python(open_grader: Open) -> None:
    grader = open_grader(PythonConfig())
    assert accuracy(grader, ADD.format("+"), "assert add(1, 2) == 3") == 1.0
    assert accuracy(grader, ADD.format("-"), "assert add(1, 2) == 3") == 0.0


@pytest.mark.parametrize(
    ("config", "expected", "fault"),
    [
        (ExactConfig(), {}, "a text, a number, or a list of them"),
        (ExactConfig(), [], "a text, a number, or a list of them"),
        (ExactConfig(), " ", "a text, a number, or a list of them"),
        (NumericConfig(), "many", 'a number, or one with a unit such as "9.8 m/s"'),
        (NumericConfig(), True, 'a number, or one with a unit such as "9.8 m/s"'),
        (ChoiceConfig(letters="ABC"), "D", "one or more of the letters ABC"),
        (ChoiceConfig(), "b", "one or more of the letters ABCDEFGH"),
        (RegexConfig(), "(", "a pattern of Python's re; this one fails: missing ), unterminated subpattern"),
        (RegexConfig(), 1, "a pattern, which is a text"),
        (
            JsonSchemaConfig(),
            {"type": "texts"},
            "a JSON schema; this one fails: $.type: 'texts' is not valid",
        ),
        (JsonSchemaConfig(), {"items": {"$ref": "http://127.0.0.1/x"}}, "leads nowhere in the schema"),
        (JsonSchemaConfig(), {"$ref": "#/$defs/none"}, "leads nowhere in the schema"),
        (JsonSchemaConfig(), [], "a JSON schema, which is an object"),
        (MathConfig(), "", "a number or a text of mathematics"),
        (MathConfig(), None, "a number or a text of mathematics"),
        (MathConfig(), r"\frac{", "mathematics that math-verify can read"),
        (PythonConfig(), "assert f(", "tests that are Python; these fail: '(' was never closed"),
        (PythonConfig(), "assert 1 == 1", "tests that call a function of the program"),
        (PythonConfig(), ["assert f()"], "tests, which are Python source in a text"),
    ],
)
def test_what_cannot_be_graded_by_is_refused(
    config: GraderConfig, expected: Any, fault: str, open_grader: Open
) -> None:
    assert fault in str(open_grader(config).fault(expected))


def test_graders_come_back_from_their_toml() -> None:
    for config in (NumericConfig(relative_tolerance=0.5), PythonConfig(sandbox="bwrap"), ChoiceConfig()):
        assert from_dict(GraderConfig, tomllib.loads(dump_toml(config))) == config
