"""The verbs on a real, if tiny, model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mohist import LLM, Message, MohistError, SamplingParams
from mohist.cli.main import main
from mohist.errors import ConfigError
from mohist.train.models import training_ops

HELLO = [Message(role="user", content="Hello 你好")]


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM.load(str(tiny_model), threads=1)


def test_a_stream_and_a_batch_give_the_same_answer(llm: LLM) -> None:
    params = SamplingParams(max_tokens=40, seed=9)
    prompt = llm.render(HELLO)
    answers, cost = llm.generate([prompt], params, num_samples=3)
    for sample in range(3):
        reply = llm.stream(prompt, params, sample=sample)
        text = "".join(piece.text for piece in reply)
        assert reply.answer.message.content == text
        assert reply.answer.message == answers[sample].message
        assert reply.answer.completion.tokens == answers[sample].completion.tokens
        assert reply.answer.completion.logprobs == answers[sample].completion.logprobs
    assert len({answer.completion.tokens for answer in answers}) == 3
    assert cost.completion_tokens == sum(len(answer.completion.tokens) for answer in answers)
    assert cost.prompt_tokens == 3 * len(prompt)
    assert cost.flops > 0


FIRST_TOKEN = """
import contextlib, gc, io, sys
from mohist.cli.main import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    status = main(["generate", sys.argv[1], "Hello", "--max-tokens", "1"])
print(status, gc.isenabled(), gc.get_stats()[2]["collections"])
print(*{name.partition(".")[0] for name in sys.modules})
print(*{name.split(".")[1] for name in sys.modules if name.startswith("mohist.")})
"""


def test_the_way_to_the_first_token_is_short(tiny_model: Path) -> None:
    """Nothing is imported that it does not need, and nobody looks for garbage on it."""
    command = [sys.executable, "-c", FIRST_TOKEN, str(tiny_model)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome, packages, parts = (line.split() for line in run.stdout.splitlines())
    assert outcome == ["0", "True", "0"]
    assert not {"transformers", "huggingface_hub", "fastapi", "starlette", "pydantic", "sqlalchemy"} & {
        *packages
    }
    assert not {"train", "serve", "recipes", "rollout", "evaluate", "tasks", "data"} & {*parts}


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread_is_a_mistake(tiny_model: Path, threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads = {threads}: it must be at least 1"):
        LLM.load(str(tiny_model), threads=threads)
    with pytest.raises(ConfigError, match=f"threads = {threads}: it must be at least 1"):
        training_ops(threads)


def test_a_reply_can_be_stopped(llm: LLM) -> None:
    reply = llm.stream(llm.encode("once"), SamplingParams(max_tokens=200), raw=True)
    for count, _ in enumerate(reply):
        if count == 2:
            reply.stop()
    assert reply.answer.completion.finish_reason == "abort"
    assert 3 <= len(reply.answer.completion.tokens) < 20
    assert reply.tokens_per_second > 0


def test_an_abandoned_reply_leaves_nothing_behind(llm: LLM) -> None:
    pieces = iter(llm.stream(llm.encode("once"), SamplingParams(max_tokens=200), raw=True))
    next(pieces)
    pieces.close()
    assert llm.engine.stats().running == 0


def test_cached_prompts_cost_less(llm: LLM) -> None:
    prompt = llm.encode("the same long prompt, twice: " * 3)
    first, again = (llm.generate([prompt], SamplingParams(max_tokens=2), raw=True)[1] for _ in range(2))
    assert (first.cached_tokens, again.prompt_tokens) == (0, first.prompt_tokens)
    assert again.cached_tokens > 0
    assert again.flops < first.flops


def test_recommended_sampling_is_read_and_checked(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"do_sample": True, "temperature": 0.2, "top_k": 7}))
    assert LLM.load(str(folder), threads=1).defaults == SamplingParams(
        max_tokens=1024, temperature=0.2, top_p=0.95, top_k=7
    )
    file.write_text(json.dumps({"do_sample": True, "top_p": 7}))
    with pytest.raises(MohistError, match=r"generation_config\.json: top_p = 7"):
        LLM.load(str(folder), threads=1)


def test_cache_tokens_are_checked(tiny_model: Path) -> None:
    with pytest.raises(MohistError, match="cache_tokens = 3"):
        LLM.load(str(tiny_model), cache_tokens=3)


def test_generate_streams_what_json_records(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(tiny_model), "Hi", "--max-tokens", "20", "--seed", "4", "--threads", "1"]
    assert main(words) == 0
    streamed = capsys.readouterr()
    assert main([*words, "--json", "--top-logprobs", "2"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert streamed.out.rstrip("\n") == row["content"].rstrip("\n")
    assert len(row["tokens"]) == len(row["logprobs"]) == len(row["top_logprobs"]) == 20
    assert row["usage"]["completion_tokens"] == 20
    assert "20 out" in streamed.err


def test_chat_answers_every_line(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines").write_text("Hello\n/stats\nAgain\n")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["chat", str(tiny_model), "--max-tokens", "5", "--threads", "1"]) == 0
    log = capsys.readouterr().err
    assert log.count("tokens/s") == 2
    assert log.count("cut off") == 2


def test_a_question_that_does_not_fit_is_an_error_and_no_traceback(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(tiny_model), "long " * 100, "--threads", "1"]) == 2
    assert capsys.readouterr().err.startswith("mohist: error: ")


def test_info(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tiny_model)]) == 0
    text = capsys.readouterr().out
    assert "2 x attention, 4 heads over 2 key/value heads of 16; feed-forward of 96" in text
    assert "chatml" in text


def test_info_needs_no_weights(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    for source in (tmp_path, tmp_path / "config.json"):
        assert main(["info", str(source), "--json", "--context", "100"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["cache_values_per_token"] == 2 * 2 * 2 * 16
        assert facts["memory_bytes"]["f32"] == {"100": facts["weight_bytes"]["f32"] + 100 * 128 * 4}
        assert facts["stored"] == {}
        assert facts["chat"] is None


def test_bench(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--prompt-tokens", "32", "--new-tokens", "4", "--batch", "2", "--repeats", "1", "--threads", "1"]
    assert main(["bench", str(tiny_model), *sizes]) == 0
    assert "prefill of 32 tokens" in capsys.readouterr().out
    assert main(["bench", str(tiny_model), *sizes, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["speeds"]["decode_tokens_per_s"] > 0
    assert result["machine"]["flops_per_s"] > 0
    assert set(result["fractions"]) == {"decode_of_memory_bandwidth", "prefill_of_multiply_add_rate"}


def test_bench_checks_its_workload(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--batch", "0"]) == 2
    assert "--batch 0: at least 1" in capsys.readouterr().err
