from random import Random
from typing import Any

import pytest

from mohist.errors import ConfigError
from mohist.recipes.countdown import TeacherConfig, guess, teach, vocabulary
from mohist.recipes.start import word_tokenizer
from mohist.tasks.library.countdown import CountdownConfig
from mohist.types import Message, Problem

TASK = CountdownConfig(
    num_numbers=3,
    operators=("+", "-", "*"),
    target=(1, 50),
    question="{numbers} make {target}",
    extract=("whole",),
)
PATIENT = TeacherConfig(num_traces=300, patience=1.0)
HASTY = TeacherConfig(num_traces=300, patience=0.0, give_up=1.0)


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return TASK.make().problems("train", 300)


def right(problem: Problem, answer: str) -> bool:
    return TASK.make().grade(problem, Message(role="assistant", content=answer)).reward == 1


def judged(reasoning: str) -> list[tuple[int, int, str, str]]:
    """(value so far, what the trace says it is, target or nothing, verdict) of every result in a trace."""
    words, found, value = reasoning.split(), [], 0
    while words:
        if words[0].isdigit():
            left, sign, right_, _, result, *words = words
            value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](int(left), int(right_))
            assert value == int(result)
        else:
            sign, right_, _, result, verdict, *words = words
            made = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}[sign](value, int(right_))
            found.append((made, int(result), sign, verdict))
    return found


def test_a_patient_search_is_right_and_tries_nothing_twice(problems: list[Problem]) -> None:
    for problem, trace in teach(problems, PATIENT, seed=0):
        assert right(problem, trace.answer)
        steps = judged(trace.reasoning)
        assert all(made == said for made, said, _, _ in steps)
        assert [verdict for *_, verdict in steps] == ["no"] * (len(steps) - 1) + ["yes"]
        assert steps[-1][0] == problem.answer["target"]


def test_a_hasty_one_answers_with_its_first_result(problems: list[Problem]) -> None:
    traces = list(teach(problems, HASTY, seed=0))
    assert all(len(judged(trace.reasoning)) == 1 for _, trace in traces)
    for problem, trace in traces:
        assert right(problem, trace.answer) == trace.reasoning.endswith("yes")


def test_patience_pays(problems: list[Problem]) -> None:
    shares = []
    for patience in (0.0, 0.2, 1.0):
        teacher = TeacherConfig(num_traces=300, patience=patience, give_up=0.8)
        answers = teach(problems, teacher, seed=0)
        shares.append(sum(right(problem, trace.answer) for problem, trace in answers) / 300)
    assert shares[0] < 0.3 < 0.31 < shares[1] < 0.5 < shares[2] == 1.0


def test_examples_are_a_function_of_seed_and_place(problems: list[Problem]) -> None:
    first = list(teach(problems, PATIENT, seed=0))
    assert first == list(teach(problems, PATIENT, seed=0))
    assert first != list(teach(problems, PATIENT, seed=1))
    assert first[:20] == list(teach(problems, TeacherConfig(num_traces=20, patience=1.0), seed=0))


def test_the_vocabulary_holds_every_word(problems: list[Problem]) -> None:
    tokenizer = word_tokenizer(vocabulary(TASK, PATIENT))
    unknown = tokenizer.token("<unk>")
    for problem, trace in teach(problems, PATIENT, seed=0):
        texts = (problem.question, trace.reasoning, trace.answer, guess(problem, Random(0)))
        assert all(unknown not in tokenizer.encode(text) for text in texts)


def test_guesses_are_well_formed_and_seldom_right(problems: list[Problem]) -> None:
    rng = Random(0)
    messages = [(p, Message(role="assistant", content=guess(p, rng))) for p in problems for _ in range(10)]
    grades = [TASK.make().grade(problem, message) for problem, message in messages]
    assert all(not grade.note or grade.note.startswith("it makes") for grade in grades)
    assert 0.02 < sum(grade.reward for grade in grades) / len(grades) < 0.15


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="three numbers"):
        vocabulary(CountdownConfig(num_numbers=4, operators=("+", "-", "*")), PATIENT)
    with pytest.raises(ConfigError, match="three numbers"):
        vocabulary(CountdownConfig(num_numbers=3), PATIENT)


@pytest.mark.parametrize("bad", [{"num_traces": 0}, {"patience": 1.5}, {"give_up": -1.0}, {"intuition": 0.0}])
def test_a_teacher_out_of_range_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        TeacherConfig(**bad)
