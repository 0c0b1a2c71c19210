"""The parts of the benchmark that measure nothing: statistics, tables, the comparison of answers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import cast

import pytest

from bench import __main__ as command
from bench import grpo
from bench.agreement import compare, gap, shown
from bench.batch import goals
from bench.machine import Load, Ticks, load_between
from bench.measure import Goal, Series, alternate, at_least, at_most, ratio_goal, undisturbed
from bench.peers import Step, greedy_step
from bench.probes import MEMORY, probed, range_of, share
from bench.prompts import QUESTIONS
from bench.report import Report, as_json, goals_table, markdown, number, series_table, table
from bench.work import batch_lengths, batch_prompts, fresh_tokens
from bench.workers import Worker


def clock(*shares: float) -> Iterator[Ticks]:
    """Readings a second apart on one core, between which others used these shares."""
    used, readings = 0.0, count()
    yield Ticks(next(readings), 0, 0, 0)
    for part in shares:
        used += part
        reading = Ticks(next(readings), used, 0, 0)
        yield reading
        yield reading


def quiet() -> Ticks:
    return Ticks(0, 0, 0, 0)


def test_series_and_goals() -> None:
    ours, theirs = Series("a", (30.0, 10.0, 20.0)), Series("b", (10.0, 10.0, 5.0))
    assert ours.median == 20
    assert ours.spread == (10, 30)
    assert ours.minus(theirs, "c") == Series("c", (20.0, 0.0, 15.0))
    goal = ratio_goal("a / b", ours, theirs, 1.5)
    assert (goal.measured, goal.low, goal.high, goal.met) == (2.0, 1.0, 4.0, True)
    assert not at_least("a", ours, 20.1).met
    assert at_least("a", ours, 20.0).met
    assert at_most("a", ours, 20.0).met
    assert not at_most("a", ours, 19.9).met


def test_rounds_go_there_and_back_after_a_warm_up(capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[str] = []

    def run(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    series = alternate({"a": lambda _: run("a"), "b": lambda _: run("b")}, 2, quiet)
    assert "".join(calls) == "ba" + "ab" + "ba"
    assert series["a"] == Series("a", (3.0, 6.0), (0.0, 0.0))
    assert series["b"] == Series("b", (4.0, 5.0), (0.0, 0.0))
    progress = capsys.readouterr().err.splitlines()
    assert progress[0] == "  warm-up/2 b: 1"
    assert progress[-1] == "  2/2 a: 6"


def test_every_run_of_a_series_gets_another_seed() -> None:
    seeds: list[int] = []
    alternate({"a": lambda seed: seeds.append(seed) or 1.0}, 3, quiet)
    assert len(set(seeds)) == 4


def test_the_least_disturbed_run_counts_however_fast(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.measure.PAUSE_S", 0)
    speeds = {0: 100.0, 1: 50.0, 2: 70.0}
    readings = clock(0.5, 0.2, 0.4)
    assert undisturbed(speeds.__getitem__, 0, lambda: next(readings), 3) == (50.0, pytest.approx(0.2))
    assert "others used 50% of the machine" in capsys.readouterr().err
    readings = clock(0.5, 0.01)
    assert undisturbed(speeds.__getitem__, 0, lambda: next(readings), 3) == (50.0, pytest.approx(0.01))


def test_load() -> None:
    load = load_between(Ticks(10, 5, 0, 4), Ticks(20, 13, 1, 10))
    assert (load.others, load.stolen) == (pytest.approx(0.2), pytest.approx(0.1))
    assert str(load) == "Meanwhile other processes used 20% of the machine, and its host withheld 10%."
    assert load_between(quiet(), quiet()) == Load(0, 0)
    assert load_between(Ticks(0, 0, 0, 0), Ticks(1, 0.5, 0, 0.6)).others == 0


def test_work_is_the_same_for_every_peer_and_new_in_every_run() -> None:
    assert fresh_tokens(16, 3) == fresh_tokens(16, 3) != fresh_tokens(16, 4)
    prompts = batch_prompts(5)
    assert prompts == batch_prompts(5)
    assert len(prompts) == len({tuple(prompt) for prompt in prompts}) == 32
    assert {tuple(prompt[:64]) for prompt in prompts} == {tuple(prompts[0][:64])}
    assert batch_prompts(5)[0][:64] != batch_prompts(6)[0][:64]
    lengths = batch_lengths()
    assert (lengths[0], lengths[-1], len(lengths)) == (32, 256, 32)
    assert lengths == sorted(lengths)


def test_tables() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert [number(x) for x in (0.123, 1.234, 12.34, 123.4, 12345.6)] == [
        "0.12",
        "1.23",
        "12.3",
        "123",
        "12,346",
    ]
    text = series_table(
        "", [Series("x", (1.0, 3.0, 2.0), (0.0, 0.5, 0.1))], "tokens/s", ("share", {"x": "7%"})
    )
    assert text.splitlines()[-1] == "| x | 2.00 | 1.00 - 3.00 | 50% | 7% |"
    goal = Goal("fast", 1.4, 1.2, 1.6, 1.5, ">=", "x")
    assert goals_table([goal]).splitlines()[-1] == "| fast | 1.40 x | 1.20 - 1.60 | >= 1.50 | **missed** |"


def test_probes_follow_their_runs() -> None:
    class Machine:
        def call(self, kind: str) -> float:
            assert kind == MEMORY
            return 10e9

    def run(seed: int) -> float:
        return 20.0 + seed

    runs = probed({"a": run, "b": run}, ["b"], MEMORY, cast(Worker, Machine()))
    assert list(runs) == ["a", "b", "memory, GB/s, beside b"]
    series = {name: Series(name, (one(0), one(5), one(10))) for name, one in runs.items()}
    assert share(series, "b", MEMORY, 0.2e9) == "50%"
    assert range_of(series, MEMORY) == "10.0 to 10.0 GB/s"


def test_goals_of_a_batch() -> None:
    speeds = {
        f"{engine} {format}": Series("", (speed,))
        for engine, values in (("Mohist", (40.0, 20.0, 10.0)), ("llama.cpp", (5.0, 4.0, 8.0)))
        for format, speed in zip(("Q4_1", "Q8_0", "f32"), values, strict=True)
    }
    found = goals(speeds | {"transformers f32": Series("", (2.5,))})
    assert [goal.measured for goal in found] == [8.0, 5.0, 1.25, 5.0, 16.0, 8.0, 4.0]
    assert [goal.what for goal in found][3:5] == [
        "Mohist Q4_1 / llama.cpp f32, best beside best",
        "Mohist Q4_1 / transformers f32",
    ]


def test_report() -> None:
    goal = Goal("fast", 1.6, 1.2, 1.7, 1.5, ">=", "x")
    data = {"x": Series("x", (1.0, 2.0)), "others": 0.5}
    report = Report(title="Speed", tables=["| t |"], goals=[goal], notes=["one", "two"], data=data)
    text = markdown(report)
    assert text.startswith("### Speed\n\n| t |\n\n| goal |")
    assert text.endswith("- one\n- two")
    document = json.loads(json.dumps(as_json(report)))
    assert document["goals"][0]["met"] is True
    assert document["data"] == {"x": {"values": [1.0, 2.0], "others": []}, "others": 0.5}
    assert document["failed"] is False


def step(token: int, **others: float) -> Step:
    """A step whose likeliest tokens are given as t5=-0.1."""
    return Step(token, tuple((int(name[1:]), logprob) for name, logprob in others.items()))


def test_equal_answers() -> None:
    ours = [step(1, t1=-0.1, t2=-3.0), step(9, t9=-0.2)]
    theirs = [step(1, t1=-0.15, t2=-2.9), step(9, t9=-0.2)]
    found = compare(ours, theirs, [])
    assert (found.position, found.length, found.gap) == (None, 2, 0.0)
    assert found.distances == pytest.approx((0.05, 0.1, 0.0))


def test_answers_that_part() -> None:
    ours = [step(1, t1=-0.1), step(2, t2=-1.0, t3=-1.2), step(4, t4=-1.0)]
    theirs = [step(1, t1=-0.1), step(3, t3=-1.0, t2=-1.5), step(5, t5=-1.0)]
    found = compare(ours, theirs, [])
    assert found.position == 1
    assert found.gap == pytest.approx(0.2)
    assert found.their_gap == pytest.approx(0.5)
    assert found.distances == pytest.approx((0.0, 0.5, 0.2))


def test_what_follows_our_stop_token_is_not_compared() -> None:
    ours, theirs = [step(1, t1=-0.1), step(2, t2=-1.0)], [step(1, t1=-0.1), step(3, t3=-1.0)]
    found = compare(ours, theirs, [1])
    assert (found.length, found.position) == (1, None)


def test_a_token_that_we_hold_unlikely_is_no_near_tie() -> None:
    assert compare([step(1, t1=-0.1)], [step(2, t2=-0.1)], []).gap == math.inf
    assert gap(step(3, t3=-0.1, t2=-0.5), 1, 2) == -math.inf


def test_steps_of_peers_are_log_softmax() -> None:
    torch = pytest.importorskip("torch")
    found = greedy_step(torch.arange(100.0))
    assert found.token == 99
    assert found.top[0][1] == pytest.approx(-math.log(sum(math.exp(-i) for i in range(100))))


def test_questions_are_twenty_and_different() -> None:
    assert len(set(QUESTIONS)) == 20
    assert sum(any(ord(sign) > 0x4E00 for sign in question) for question in QUESTIONS) >= 4
    assert sum("`" in q or "Python" in q or "SQL" in q for q in QUESTIONS) >= 4
    assert shown("a|b\n" + 50 * "c") == "a b " + 35 * "c" + "…"


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[set[str], list[int], int | None]] = []

    def measured(names: set[str], threads: list[int], repeats: int | None) -> list[Report]:
        asked.append((names, threads, repeats))
        return [Report(title="Speed", tables=[]), Report(title="Sense", tables=[], failed=len(asked) > 1)]

    def trained(*options: object) -> list[Report]:
        trainings.append(options)
        return []

    trainings: list[tuple[object, ...]] = []
    k_quants: list[tuple[object, ...]] = []
    monkeypatch.setattr(command, "k_quants", lambda *options: k_quants.append(options) or [])
    monkeypatch.setattr(command, "measured", measured)
    monkeypatch.setattr(command, "trained", trained)
    monkeypatch.setattr(command, "described", lambda: {"processor": "slow"})
    assert command.main([]) == 0
    assert asked[-1] == (set(command.NAMES) - {"grpo", "exactness", "kquants"}, [1, 2], None)
    assert k_quants == [([1, 2], None)]
    assert trainings == [
        (contest, grpo.MODELS, grpo.WORKS, [1, 2], None) for contest in (grpo.run, grpo.exactness)
    ]
    assert command.main(["decode", "--threads", "2", "--repeats", "3", "--json", str(tmp_path / "x")]) == 1
    assert asked[-1] == ({"decode"}, [2], 3)
    assert len(trainings) == 2
    document = json.loads((tmp_path / "x").read_text())
    assert document["machine"] == {"processor": "slow"}
    assert [report["title"] for report in document["reports"]] == ["Speed", "Sense"]
    assert "processor slow" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["speed"], ["--threads", "0"], ["--threads", "x"], ["--repeats", "-1"]])
def test_mistakes_on_the_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert "error: argument" in capsys.readouterr().err


def test_the_command_itself_stays_small() -> None:
    """Commands whose memory is measured begin with what this process has."""
    code = "import sys, bench.__main__; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
