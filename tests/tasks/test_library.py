"""What holds for every generated task, and how each of them judges."""

from __future__ import annotations

import re
import tomllib
from fractions import Fraction
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.config import dump_toml, from_dict
from mohist.errors import ConfigError, TaskError
from mohist.tasks.generated import GeneratedTask, split_of_key
from mohist.tasks.library.algebra import AlgebraConfig
from mohist.tasks.library.arithmetic import ArithmeticConfig, arithmetic_problem
from mohist.tasks.library.arithmetic import canonical as canonical_chain
from mohist.tasks.library.countdown import CountdownConfig, countdown_problem
from mohist.tasks.library.countdown import canonical as canonical_countdown
from mohist.tasks.scoring import RIGHT, Verdict, wrong
from mohist.tasks.task import TaskConfig, all_tasks
from mohist.types import Grade, Message, Problem

GENERATED = [ArithmeticConfig(), CountdownConfig(), AlgebraConfig()]


def grade(config: TaskConfig, problem: Problem, content: str, reasoning: str | None = None) -> Grade:
    message = Message(role="assistant", content=content, reasoning=reasoning)
    return config.make().grade(problem, message)


@pytest.mark.parametrize("config", GENERATED, ids=lambda config: config.name)
def test_splits_have_no_problem_in_common(config: TaskConfig) -> None:
    task = config.make()
    assert isinstance(task, GeneratedTask)
    keys = {}
    for split in ("train", "test"):
        problems = task.problems(split, 500, seed=1)
        assert all(task.split_of(problem) == split for problem in problems)
        keys[split] = {task.key(problem) for problem in problems}
        assert len(keys[split]) == 500
    assert not keys["train"] & keys["test"]


@pytest.mark.parametrize("config", GENERATED, ids=lambda config: config.name)
def test_problems_are_a_function_of_config_split_count_and_seed(config: TaskConfig) -> None:
    one, other = config.make(), config.make()
    assert one.problems("train", 50, seed=3) == other.problems("train", 50, seed=3)
    assert one.problems("train", 20, seed=3) == other.problems("train", 50, seed=3)[:20]
    assert one.problems("train", 50, seed=3) != other.problems("train", 50, seed=4)
    assert one.problems("train", 0) == []


@pytest.mark.parametrize("config", GENERATED, ids=lambda config: config.name)
def test_a_config_comes_back_from_its_toml(config: TaskConfig) -> None:
    assert from_dict(TaskConfig, tomllib.loads(dump_toml(config))) == config


def test_the_hash_splits_evenly() -> None:
    held_out = sum(split_of_key(str(i), 0.25) == "test" for i in range(10_000))
    assert 2_300 < held_out < 2_700
    assert split_of_key("3 5 7 = 36", 0.5) == split_of_key("3 5 7 = 36", 0.5)


def test_too_few_problems_is_an_error_that_says_so() -> None:
    task = CountdownConfig(num_numbers=2, largest=2).make()
    with pytest.raises(
        ConfigError, match=r"task countdown, split test: 500 different problems .* only \d found"
    ):
        task.problems("test", 500)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "cuntdown"}, "task.name = 'cuntdown': no such name; did you mean countdown?"),
        ({"name": "countdown", "larges": 9}, "task.larges: no such key; did you mean task.largest?"),
        ({"name": "countdown", "num_numbers": 1}, "task.num_numbers = 1: it must be 2 to 8"),
        ({"name": "countdown", "question": "{nummer}"}, "it may hold {numbers}, {operators}, {target}"),
        ({"name": "countdown", "question": "{"}, "task.question = '{'"),
        ({"name": "arithmetic", "num_terms": [3, 2]}, "task.num_terms = (3, 2)"),
        ({"name": "algebra", "kinds": []}, "task.kinds is empty"),
        ({"name": "algebra", "test_fraction": 1.0}, "task.test_fraction = 1.0: it must be in (0, 1)"),
        ({"name": "algebra", "language_weight": 0.1}, "it needs task.language"),
        ({"name": "algebra", "extract": []}, "task.extract is empty"),
    ],
)
def test_mistakes_in_a_config_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        from_dict(TaskConfig, table, prefix="task.")


def test_every_module_of_the_library_is_a_task() -> None:
    for name, config in all_tasks().items():
        assert issubclass(config, TaskConfig)
        assert {field: field for field in config.__dataclass_fields__}["name"] == "name"
        assert config.__dataclass_fields__["name"].default == name


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_every_countdown_problem_has_a_solution(seed: int) -> None:
    config = CountdownConfig(num_numbers=3)
    task = config.make()
    for problem in task.problems("train", 5, seed=seed):
        solutions = (
            f"({a}{op}{b}){op2}{c}" if left else f"{a}{op}({b}{op2}{c})"
            for a, b, c in permutations(problem.answer["numbers"])
            for op in "+-*/"
            for op2 in "+-*/"
            for left in (True, False)
        )
        grades = (grade(config, problem, f"\\boxed{{{text}}}") for text in solutions)
        assert any(each.parts["accuracy"] == 1.0 for each in grades), problem.id


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("(5 - 3) * 7", ""),
        (r"7 \times (5 - 3)", ""),
        ("(5 - 3) * 7 = 14", ""),
        ("(5 - 3) * 7 = 15", "it says that the result is '15'"),
        ("5 + 3 + 7", "it makes 15, not 14"),
        ("7 + 7", "it uses [7, 7], not [3, 5, 7]"),
        ("(5 - 3) * 7 + 0", "it uses [5, 3, 7, 0]"),
        ("57 - 43", "it uses [57, 43]"),
        ("14", "it uses [14]"),
        ("7 / (5 - 3)", "it uses /, which is not allowed"),
        ("7 / (3 - 3 + 5 - 5)", "divides by zero"),
        ("exit()", "not an expression"),
    ],
)
def test_countdown(answer: str, note: str) -> None:
    config = CountdownConfig(operators=("+", "-", "*"))
    problem = countdown_problem(config, [3, 5, 7], 14)
    found = grade(config, problem, f"\\boxed{{{answer}}}")
    assert found.reward == (0.0 if note else 1.0)
    assert note in found.note


def test_countdown_asks_what_the_template_says() -> None:
    config = CountdownConfig(question="{numbers} -> {target}", system="think")
    problem = countdown_problem(config, [3, 1, 2], 6)
    assert problem.question == "3 1 2 -> 6"
    assert [message.content for message in problem.messages] == ["think", "3 1 2 -> 6"]
    assert canonical_countdown(problem) == canonical_countdown(countdown_problem(config, [2, 3, 1], 6))


@given(st.lists(st.tuples(st.integers(1, 20), st.sampled_from("+-*")), min_size=2, max_size=6), st.randoms())
def test_chains_that_ask_the_same_have_one_canonical_form(pairs: list[tuple[int, str]], rng: Any) -> None:
    config = ArithmeticConfig()
    problem = arithmetic_problem(config, [n for n, _ in pairs], [sign for _, sign in pairs[1:]])
    products: list[tuple[str, list[int]]] = []
    for i, (number, sign) in enumerate(pairs):
        if i and sign == "*":
            products[-1][1].append(number)
        else:
            products.append(("+" if not i else sign, [number]))
    positive = [product for product in products if product[0] == "+"]
    first = positive.pop(rng.randrange(len(positive)))
    rest = [product for product in products if product is not first]
    rng.shuffle(rest)
    numbers, operators = [], []
    for sign, factors in [first, *rest]:
        rng.shuffle(factors)
        numbers += factors
        operators += [sign, *["*"] * (len(factors) - 1)]
    shuffled = arithmetic_problem(config, numbers, operators[1:])
    assert canonical_chain(shuffled) == canonical_chain(problem)
    assert shuffled.answer["value"] == problem.answer["value"]


def test_arithmetic() -> None:
    config = ArithmeticConfig()
    problem = arithmetic_problem(config, [12, 7, 3], ["-", "*"])
    assert problem.answer == {"expression": "12 - 7 * 3", "value": -9}
    assert grade(config, problem, r"\boxed{-9}").reward == 1.0
    assert grade(config, problem, r"\boxed{-9.0}").reward == 1.0
    assert grade(config, problem, "so it is -9").parts == {"accuracy": 1.0, "format": 0.0}
    assert grade(config, problem, r"\boxed{15}").note == "15, not -9"
    assert grade(config, problem, r"\boxed{nine}").note == "not a number: 'nine'"
    assert grade(config, problem, "", reasoning=r"\boxed{-9}").note.startswith(
        "no answer: it must be in boxed"
    )


@pytest.mark.parametrize("kind", ["linear", "quadratic", "system"])
def test_algebra_solutions_solve_the_equations(kind: Any) -> None:
    config = AlgebraConfig(kinds=(kind,))
    for problem in config.make().problems("train", 100):
        values = [Fraction(value) for value in problem.answer["solution"]]
        names = (
            [{"x": value} for value in values]
            if kind == "quadratic"
            else [dict(zip("xy", values, strict=False))]
        )
        for equation in problem.id.split(" and "):
            text = re.sub(r"(\d)([xy])", r"\1*\2", equation).replace("^", "**").replace("=", "==")
            assert all(eval(text, {}, name) for name in names), problem
        right = ", ".join(problem.answer["solution"])
        assert grade(config, problem, f"\\boxed{{{right}}}").reward == 1.0
        assert grade(config, problem, f"\\boxed{{{right}1}}").reward == 0.0


def test_algebra_answers_may_name_the_unknowns() -> None:
    config = AlgebraConfig(kinds=("system",))
    problem = config.make().problems("train", 1)[0]
    x, y = problem.answer["solution"]
    for text in (f"x = {x}, y = {y}", f"({x}, {y})", f"{x}，{y}", f"${x}, {y}$"):
        assert grade(config, problem, f"\\boxed{{{text}}}").reward == 1.0
    assert grade(config, problem, f"\\boxed{{{x}}}").note.startswith("not 2 number(s)")


@pytest.mark.parametrize("config", GENERATED, ids=lambda config: config.name)
@given(st.text() | st.text(alphabet="0123456789+-*/()=,.xy \\{}$eE^"))
def test_any_answer_can_be_judged(config: TaskConfig, answer: str) -> None:
    task = config.make()
    problem = task.problems("test", 1)[0]
    for content in (answer, f"\\boxed{{{answer}}}", f"Answer: {answer}"):
        found = task.grade(problem, Message(role="assistant", content=content))
        assert found.reward in (0.0, 1.0)
        assert (found.note == "") == (found.reward == 1.0)


def test_reward_weighs_the_parts() -> None:
    config = ArithmeticConfig(format_weight=0.5, language="zh", language_weight=0.25)
    problem = arithmetic_problem(config, [1, 2], ["+"])
    found = grade(config, problem, r"答案 four \boxed{4}", reasoning="两个 numbers")
    assert found.parts == {"accuracy": 0.0, "format": 1.0, "language": 4 / 6}
    assert found.reward == 0.5 + 0.25 * 4 / 6


def test_an_error_in_a_grader_is_an_error_that_names_problem_and_grader() -> None:
    def judge(answer: str, expected: Any) -> Verdict:
        return RIGHT if answer == expected["val"] else wrong("")

    config = ArithmeticConfig()
    problem = arithmetic_problem(config, [1, 2], ["+"])
    task = GeneratedTask(config=config, draw=config.draw, key=canonical_chain, judge=judge)
    with pytest.raises(
        TaskError, match=r"problem '1 \+ 2': the grader of task 'arithmetic' failed .*'4': KeyError"
    ):
        task.grade(problem, Message(role="assistant", content=r"\boxed{4}"))
