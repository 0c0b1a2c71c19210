from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mohist.cli import options
from mohist.cli.main import main, verbs
from tests.cli.fakes import FakeLLM, Piece

ROOT = Path(__file__).parents[2]


def mohist(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mohist", *words], input=stdin, capture_output=True, text=True, check=False
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLLM:
    llm = FakeLLM([[Piece("reasoning", "hm"), Piece("content", "Yes.")], [Piece("content", "No.")]])
    monkeypatch.setattr(options, "load_llm", lambda args: llm)
    return llm


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = ROOT / "tools" / "check_startup.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_explains_itself_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"  mohist {verb}" in capsys.readouterr().out.partition("examples:\n")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: VERB (see mohist --help)"),
        (["talk"], "invalid choice: 'talk'"),
        (["chat", "--temprature", "1"], "no such option: --temprature (see mohist chat --help)"),
        (["chat", "--seed", "x"], "argument --seed: invalid int value: 'x' (see mohist chat --help)"),
        (["pull", "/no/such/folder"], "'/no/such/folder': no such file or folder"),
        (["generate", "a", "b", "c"], "quote the prompt"),
        (["generate", "hi", "--num-samples", "0"], "--num-samples 0: at least 1"),
        (["generate", "hi", "--top-logprobs", "3"], "--top-logprobs 3: text has no place for"),
        (["generate", "hi", "--json-schema", "no.json"], "no.json: cannot be read: No such file"),
        (["r1"], "r1 takes a RECIPE: quickstart, smollm2, or a TOML file"),
        (["r1", "quikstart"], "'quikstart': no such recipe: quickstart, smollm2, or a TOML file"),
        (["r1", "no.toml"], "no.toml: cannot be read"),
        (["replay", "no.json"], "no.json: cannot be read: No such file"),
        (["generate", "hi", "--raw", "--system", "x"], "--raw uses no chat template"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(words: list[str], message: str) -> None:
    run = mohist(*words)
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stderr.startswith("mohist: error: ")
    assert run.stderr.count("\n") == 1


def test_version() -> None:
    assert mohist("--version").stdout == "mohist 0.1.0\n"


def test_a_reader_who_leaves_is_no_error() -> None:
    code = "from mohist.cli.main import main; import sys; sys.exit(main(['pull', *['.'] * 100_000]))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), complaint) == (141, b"")


def test_control_c_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "load_llm", interrupted)
    assert main(["chat"]) == 130


def test_generate_streams_the_answer_and_logs_the_cost(
    fake: FakeLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "Really?", "--seed", "3", "--price-per-hour", "3600", "--system", "Short."]) == 0
    captured = capsys.readouterr()
    assert captured.out == "[thinking]\nhm\n[answer]\nYes.\n"
    assert captured.err == "50.0 tokens/s, 3 tokens in, 2 out, 1.00 s, 1 USD\n"
    assert fake.asked[0]["params"].seed == 3
    assert [message.role for message in fake.asked[0]["messages"]] == ["system", "user"]


def test_generate_reads_the_prompt_from_standard_input(
    fake: FakeLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.write(write, "一加一?".encode())
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["generate", "some-model", "-", "--raw"]) == 0
    assert fake.asked[0]["raw"] == "一加一?"


def test_generate_json_has_tokens_and_logprobs(fake: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Really?", "--json", "--num-samples", "2", "--top-logprobs", "5"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["content"] for row in rows] == ["Yes.", "No."]
    assert rows[0]["reasoning"] == "hm"
    assert rows[0]["logprobs"] == [-0.5, -0.25]
    assert rows[0]["finish_reason"] == "stop"
    assert fake.asked[0]["params"].top_logprobs == 5


def test_generate_numbers_its_samples(fake: FakeLLM, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "Really?", "--num-samples", "2"]) == 0
    assert capsys.readouterr().out == (
        "--- sample 1 of 2 ---\n[thinking]\nhm\n[answer]\nYes.\n--- sample 2 of 2 ---\nNo.\n"
    )


def test_chat_reads_lines_without_a_terminal(
    fake: FakeLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text("Really?\nSure?\n")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["chat", "--temperature", "0", "--think", "off"]) == 0
    assert capsys.readouterr().out.endswith("Yes.\nNo.\n")
    assert [asked["thinking"] for asked in fake.asked] == [False, False]
    assert fake.asked[1]["params"].temperature == 0
