"""`mohist grpo` and `mohist runs`: from a TOML file to a model, a report and a table."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from mohist.cli.main import main
from mohist.train.terminal import Terminal, sparkline
from tests.rollout.tiny import save_tiny
from tests.train.test_grpo import logged

CONFIG = """
model = "{model}"
steps = 4
problems_per_step = 6
num_problems = 12
evaluate_every = 2
threads = 1

[task]
name = "arithmetic"
extract = ["whole"]
num_terms = [2, 2]
smallest = 0
largest = 5
operators = ["+"]
question = "{{expression}}"

[sampling]
max_tokens = 1

[optim]
lr = 0.005

[evaluation]
split = "train"
num_problems = 12
max_tokens = 1

[run]
folder = "{runs}/first"
save_every = 2

[run.prices]
machine_per_hour = 3.6
"""


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that was run."""
    folder = tmp_path_factory.mktemp("grpo")
    model = save_tiny(folder / "model")
    path = folder / "grpo.toml"
    path.write_text(CONFIG.format(model=model, runs=folder / "runs"))
    assert main(["grpo", str(path)]) == 0
    assert (
        main(["grpo", str(path), "--run.folder", str(folder / "runs" / "second"), "--optim.lr", "0.01"]) == 0
    )
    return path


def test_a_run_leaves_a_model_a_report_and_its_logs(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = toml.parent / "runs" / "first"
    assert {path.name for path in (first / "checkpoints").iterdir()} == {"step-2", "step-4"}
    assert {path.name for path in (first / "evaluations").iterdir()} == {
        "step-0.json",
        "step-2.json",
        "step-4.json",
    }
    assert json.loads((first / "ledger.json").read_text())["total"]["money"] > 0
    question = ["--task.name", "arithmetic", "--task.question", "{expression}", "--num-problems", "4"]
    model = str(first / "checkpoints" / "step-4")
    assert main(["evaluate", model, *question, "--task.largest", "9", "--max-tokens", "4"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_the_report_is_one_file_without_a_network(toml: Path) -> None:
    page = (toml.parent / "runs" / "first" / "report.html").read_text()
    assert not re.search(r"""(src|href)=|url\(|https?://|@import|\{\{""", page)
    for title in ("Reward", "Mismatch", "Evaluation", "Before and after", "Answers", "Costs", "Config"):
        assert title in page
    assert page.count('<svg class="chart"') == page.count("<figure data-chart=")
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert [entry["step"] for entry in data["steps"]] == [1, 2, 3, 4]
    group = data["steps"][0]["groups"][0]
    assert sum(answer["count"] for answer in group["answers"]) <= group["size"] == 8
    assert len(data["charts"]) == page.count("<figure data-chart=")


def test_runs_are_listed_and_compared(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = toml.parent / "runs"
    assert main(["runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:4] == ["run", "step", "of", "time"]
    assert [line.split()[0] for line in lines[1:]] == ["first", "second"]
    assert main(["runs", str(runs / "first"), str(runs / "second")]) == 0
    compared = capsys.readouterr().out
    assert re.search(r"^optim.lr +0.005 +0.01$", compared, re.MULTILINE)
    assert "problems_per_step" not in compared
    assert main(["runs", str(runs), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["figures"]["mismatch"] == {"last": 0.0, "best": 0.0}
    assert rows[0]["config"]["optim.lr"] == 0.005


def test_mistakes_are_explained(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grpo", str(toml)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main(["grpo", str(toml), "--resume", "--group-size", "4"]) == 2
    assert "group_size" in capsys.readouterr().err
    assert main(["grpo", str(toml), "--repetition_penalty", "1.1"]) == 2
    assert "repetition_penalty: no such key" in capsys.readouterr().err
    assert main(["runs", str(toml.parent / "model")]) == 2
    assert "no runs there" in capsys.readouterr().err


def test_a_finished_run_resumes_to_itself(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = toml.parent / "runs" / "first"
    before = logged(first)
    assert main(["grpo", str(toml), "--resume"]) == 0
    assert logged(first) == before
    assert "step-4" in capsys.readouterr().out


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


STEP = {"seconds": 1.0, "reward": 0.5, "accuracy": 0.25, "mismatch": 0.0, "truncated": 0.125, "loss": 1.0}


def test_without_a_terminal_a_step_is_a_line() -> None:
    out = io.StringIO()
    view = Terminal(out)
    view.begin("run", step=0, steps=3)
    view.working("sampling", 1, 2)
    view.step(1, STEP, "0.1 USD")
    view.say("step 1: done")
    assert out.getvalue() == (
        "run\nstep 1/3  reward 0.5  accuracy 25.0 %  cut off 12.5 %  mismatch 0  2 s left, 0.1 USD\n"
        "step 1: done\n"
    )


def test_on_a_terminal_the_block_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("mohist.train.terminal.REDRAW_S", 0)
    out = FakeTerminal()
    view = Terminal(out)
    view.begin("run", step=0, steps=3)
    view.step(1, STEP, "")
    first = out.getvalue()
    assert first.startswith("run  step 1/3  2 s left\n  reward         0.5  ▁\n  accuracy    25.0 %  ▁\n")
    view.working("sampling", 1, 2)
    second = out.getvalue()[len(first) :]
    assert second.startswith(f"\x1b[{first.count(chr(10))}A\x1b[J")
    assert second.endswith("  sampling 1/2\n")


def test_sparklines_keep_their_width() -> None:
    assert sparkline([0, 1], 10) == "▁█"
    assert sparkline([1, 1, 1], 10) == "▁▁▁"
    assert len(sparkline(list(range(100)), 7)) == 7
    assert sparkline(list(range(80)), 8) == "▁▂▃▄▅▆▇█"
