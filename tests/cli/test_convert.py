"""`mohist convert` from end to end, on a model that babbles."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers

from mohist import LLM, Message, SamplingParams
from mohist.cli.main import main
from mohist.weights.checkpoint import open_checkpoint
from tests.cli.conftest import make_tiny_model

GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer cuts text into words by rules that GGUF has a name for."""
    folder = make_tiny_model(tmp_path_factory.mktemp("convert") / "tiny")
    path = folder / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.save(str(path))
    return folder


def answers(path: Path) -> list[object]:
    """What a model says and what it says it from: prompt, tokens, log-probabilities."""
    llm = LLM.load(str(path), threads=1)
    prompt = llm.render([Message(role="user", content="Hello <|im_end|> 你好")])
    found, _ = llm.generate([prompt], GREEDY)
    return [prompt, found[0].completion.tokens, found[0].completion.logprobs, llm.chat.stop_tokens]


def test_a_model_goes_there_and_back(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights, config, tokenizer and template: the same answers, bit for bit, and the same weights' bytes."""
    gguf, back, again = tmp_path / "tiny.gguf", tmp_path / "back", tmp_path / "again.gguf"
    for source, target in ((model, gguf), (gguf, back), (back, again)):
        assert main(["convert", str(source), str(target)]) == 0
    assert answers(model) == answers(gguf) == answers(back)
    assert (back / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    data = {path: open_checkpoint(path) for path in (gguf, again)}
    assert data[gguf].tensors == data[again].tensors
    assert f"{gguf}: {gguf.stat().st_size:,} bytes" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.gguf", "back", "tiny.gguf"]


def test_quantising_prints_what_it_costs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Some words to measure with. " * 6, encoding="utf-8")
    target = tmp_path / "tiny-q8_0.gguf"
    assert main(["convert", str(model), str(target), "--quantize", "q8_0", "--text", str(text)]) == 0
    weights, as_run = capsys.readouterr().out.splitlines()[-2:]
    assert "rounded weights:   perplexity" in weights
    assert "as Mohist runs it: perplexity" in as_run
    assert "% of 167 places" in weights
    smaller = tmp_path / "tiny-q4_0.gguf"
    assert main(["convert", str(target), str(smaller), "--quantize", "q4_0", "--no-loss"]) == 0
    assert smaller.stat().st_size < target.stat().st_size
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out.gguf", "--format", "safetensors", "--quantize", "q8_0"], "safetensors folders hold f32"),
        (["there.gguf"], "exists already"),
        (
            ["out.gguf", "--quantize", "q8_0", "--text", "no-such-file"],
            "no-such-file: cannot be read as text",
        ),
    ],
)
def test_mistakes(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.gguf").write_bytes(b"precious")
    assert main(["convert", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert Path("there.gguf").read_bytes() == b"precious"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_rules_for_words_without_a_name_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(tiny_model), str(tmp_path / "tiny.gguf")]) == 2
    assert "by rules that GGUF has no name for" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
