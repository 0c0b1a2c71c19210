"""Guesses by models and by lookup with real decoders: answers and scores equal those without, bit for bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mohist.engine.draft_model import DraftModel
from mohist.engine.drafters import make_drafter
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.lookup import PromptLookup
from mohist.engine.mtp import MtpDrafter
from mohist.engine.runner import DecoderRunner
from mohist.engine.speculation import Drafter, Speculator
from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder
from mohist.model.tensors import Matrix
from mohist.types import Request, SamplingParams
from tests.exact.guessing import Always, OnAndOff
from tests.exact.models import CONFIGS, VOCAB, Model, decoder, noise, ops
from tests.exact.requests import SHARED, content

MODEL = Model("deepseek_v3", "f32")
DRAFT = Model("llama", "q8_0")


def with_module(threads: int = 1) -> Decoder:
    """A decoder of random weights with an MTP module."""
    config = dataclasses.replace(CONFIGS["deepseek_v3"], mtp_layers=1)
    return filled(init_decoder(config, ops(threads), seed=0))


def filled(made: Decoder) -> Decoder:
    with torch.no_grad():
        for key, module in made.tensors().items():
            if isinstance(module, Matrix):
                assert module.parameter is not None
                module.parameter.copy_(0.25 * noise(key, *module.shape))
    return made


def runner_of(of: Decoder, num_blocks: int = 64) -> DecoderRunner:
    return DecoderRunner(of, of.ops, num_blocks=num_blocks)


def lookup(_: DecoderRunner) -> Drafter:
    return PromptLookup()


def draft(runner: DecoderRunner) -> Drafter:
    return DraftModel(runner_of(decoder(DRAFT), 10), vocab_size=runner.vocab_size)


def itself(runner: DecoderRunner) -> Drafter:
    """The model drafts for itself, so nearly every guess is right."""
    return DraftModel(runner_of(runner.decoder), vocab_size=runner.vocab_size)


def requests() -> list[Request]:
    """Different lengths and ways to sample; one that runs into a stop token, and one that loops."""
    params = SamplingParams(max_tokens=40, top_logprobs=2, seed=1)
    ways = [
        params,
        params.replace(temperature=0.0),
        params.replace(temperature=0.7, top_p=0.8, stop_tokens=tuple(range(0, VOCAB, 9))),
        params.replace(frequency_penalty=0.5, repetition_penalty=1.2),
        params.replace(min_p=0.05, max_tokens=1),
    ]
    return [Request(prompt=(*SHARED[: 13 * i], i), params=way) for i, way in enumerate(ways)]


@pytest.mark.parametrize("drafter", [lookup, draft, itself, MtpDrafter], ids=lambda made: made.__name__)
@pytest.mark.parametrize("scarce", [False, True], ids=["ample", "scarce"])
@pytest.mark.parametrize("how", [Always, OnAndOff])
def test_guesses_change_nothing(
    drafter: Callable[[DecoderRunner], Drafter], how: type[Always], scarce: bool
) -> None:
    of = with_module()
    asked = requests() * 2
    expected = [content(c) for c in Engine(runner_of(of)).generate(asked)]
    runner = runner_of(of, 9 if scarce else 64)
    config = EngineConfig(max_running=4, max_step_tokens=11) if scarce else EngineConfig()
    engine = Engine(runner, config, how(drafter(runner), most=3))
    assert [content(c) for c in engine.generate(asked)] == expected
    engine.check()
    stats = engine.stats()
    assert stats.drafted_tokens > 15
    if drafter is itself:
        assert stats.accepted_tokens > 0.5 * stats.drafted_tokens
    if scarce:
        assert stats.preemptions > 0
    # the same engine again, from cached prefixes, and scored
    again = engine.generate(asked)
    assert [content(c) for c in again] == expected
    text = asked[3].prompt + again[3].tokens
    assert engine.score(text, start=len(asked[3].prompt)) == again[3].logprobs


def test_a_module_that_knows_is_right() -> None:
    """Where the next token follows from the last one alone, the module's guesses are all true."""
    config = dataclasses.replace(CONFIGS["deepseek_v3"], mtp_layers=1)
    made = filled(init_decoder(config, ops(), seed=0))
    hidden = config.hidden_size
    with torch.no_grad():
        for key, module in made.tensors().items():
            if not isinstance(module, Matrix):
                continue
            assert module.parameter is not None
            if key.endswith((".o", ".down")):
                module.parameter.zero_()  # blocks add nothing
            if key == "mtp.0.project":
                module.parameter.copy_(torch.cat((torch.eye(hidden), torch.zeros(hidden, hidden)), dim=1))
    runner = runner_of(made)
    engine = Engine(runner, speculation=Always(MtpDrafter(runner), most=3))
    params = SamplingParams(max_tokens=41, temperature=0.9)
    (answer,) = engine.generate([SHARED[:70]], params)
    assert answer.usage.accepted_tokens == answer.usage.drafted_tokens == 30
    assert content(answer) == content(Engine(runner_of(made)).generate([SHARED[:70]], params)[0])


def test_a_model_in_training_guesses_with_its_own_module() -> None:
    """Rollouts: new weights count for the module as well, and change no rule."""
    config = dataclasses.replace(CONFIGS["deepseek_v3"], mtp_layers=1)
    made = filled(init_decoder(config, TrainingOps(ops()), seed=0))
    runner = DecoderRunner(made, ops(), num_blocks=64)
    engine = Engine(runner, speculation=Always(MtpDrafter(runner), most=2))
    seen = set()
    for _ in range(2):
        expected = [
            content(c) for c in Engine(DecoderRunner(made, ops(), num_blocks=64)).generate(requests())
        ]
        assert [content(c) for c in engine.generate(requests())] == expected
        seen.add(expected[0].tokens)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(0.9)
        engine.update_weights()
    assert len(seen) == 2


def test_with_a_clock_too() -> None:
    of = with_module(2)
    runner = runner_of(of)
    engine = Engine(runner, speculation=Speculator(DraftModel(runner_of(of), vocab_size=VOCAB)))
    params = SamplingParams(max_tokens=100, temperature=0.0)
    answers = engine.generate([SHARED[:20]], params)
    assert [content(c) for c in answers] == [
        content(c) for c in Engine(runner_of(of)).generate([SHARED[:20]], params)
    ]


def test_drafters_by_name(tmp_path: Path) -> None:
    runner = runner_of(decoder(MODEL))
    assert make_drafter("off", runner) is None
    assert isinstance(make_drafter("lookup", runner), PromptLookup)
    with pytest.raises(ConfigError, match="no multi-token module"):
        make_drafter("mtp", runner)
    for wrong in ("lookpu", "draft", "draft:"):
        with pytest.raises(ConfigError, match=f"'{wrong}': it must be lookup, mtp, draft:MODEL or off"):
            make_drafter(wrong, runner)
    with pytest.raises(ConfigError, match="same tokenizer"):
        DraftModel(runner, vocab_size=VOCAB + 1)
