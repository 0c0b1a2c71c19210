"""Adapters served beside their base model: whoever shares a step with whom, no bit of an answer moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.engine import runner as engine_runner
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.lookup import PromptLookup
from mohist.engine.runner import DecoderRunner
from mohist.errors import ConfigError, RequestError
from mohist.kernels.autograd import TrainingOps
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.train.lora import LoraConfig, add_lora, load_adapter, save_adapter
from mohist.types import Completion, Request, SamplingParams
from tests.exact.guessing import Always
from tests.exact.models import Model, load, noise, ops
from tests.exact.requests import SHARED, content

MODELS = [
    Model("qwen2", "f32"),
    Model("qwen3", "q8_0"),
    Model("deepseek_v3", "mixed"),
    Model("llama", "bf16"),
]
RANKS = {"a": 4, "b": 7, "c": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """By model and adapter: files with differences that matter, of different ranks and matrices."""
    place = tmp_path_factory.mktemp("adapters")
    found = {}
    for model in MODELS:
        for name, rank in RANKS.items():
            decoder = load(model, ops())
            targets = ("o", "down", "gate") if name == "b" else ()
            add_lora(decoder, LoraConfig(rank=rank, alpha=1.5 * rank, targets=targets), seed=rank)
            with torch.no_grad():
                for key, parameter in decoder.named_parameters():
                    if key.endswith("low_rank.b"):
                        parameter.copy_(0.1 * noise(f"{name} {key}", *parameter.shape))
            found[model.name, name] = place / model.name / name
            save_adapter(decoder, found[model.name, name], base="base")
    return found


def serving(
    model: Model,
    folders: dict[tuple[str, str], Path],
    names: str = "abc",
    *,
    threads: int = 1,
    num_blocks: int = 64,
    config: EngineConfig | None = None,
    guessing: bool = False,
) -> Engine:
    """A fresh engine with these adapters."""
    decoder = load(model, ops(threads))
    runner = DecoderRunner(decoder, decoder.ops, num_blocks=num_blocks)
    engine = Engine(runner, config, Always(PromptLookup()) if guessing else None)
    for name in names:
        engine.add_adapter(name, folders[model.name, name])
    return engine


def requests(count: int = 8) -> Iterator[Request]:
    """Prompts that begin alike, for every adapter and for none."""
    params = SamplingParams(max_tokens=36, top_logprobs=2, seed=3)
    for i in range(count):
        adapter = (None, "a", "b", "c", "a")[i % 5]
        yield Request(prompt=(*SHARED[: 16 * (i % 3)], i), params=params, adapter=adapter)


def alone(model: Model, folders: dict[tuple[str, str], Path], request: Request) -> Completion:
    return serving(model, folders, request.adapter or "").generate([request])[0]


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_mixed_batch_answers_as_each_alone(model: Model, folders: dict[tuple[str, str], Path]) -> None:
    asked = list(requests())
    expected = [content(alone(model, folders, request)) for request in asked]
    assert len({completion.tokens for completion in expected}) == len(asked)
    crowd = serving(model, folders, threads=2)
    assert [content(c) for c in crowd.generate(asked)] == expected
    guessing = serving(model, folders, guessing=True)
    assert [content(c) for c in guessing.generate(asked)] == expected
    scarce = serving(model, folders, num_blocks=8, config=EngineConfig(max_running=5, max_step_tokens=9))
    assert [content(c) for c in scarce.generate(asked)] == expected
    assert scarce.stats().preemptions > 0
    for request, completion in zip(asked, expected, strict=True):
        text = request.prompt + completion.tokens
        scores = crowd.score(text, start=len(request.prompt), adapter=request.adapter)
        assert scores == completion.logprobs


@given(order=st.permutations(range(8)), steps=st.lists(st.integers(0, 4), min_size=8, max_size=8))
@settings(max_examples=10)
def test_arrivals_do_not_matter(
    folders: dict[tuple[str, str], Path], order: list[int], steps: list[int]
) -> None:
    model = MODELS[0]
    asked = list(requests())
    crowd = serving(model, folders, config=EngineConfig(max_running=8, max_step_tokens=20))
    ids = {}
    events = []
    for index, wait in zip(order, steps, strict=True):
        ids[crowd.submit(asked[index])[0]] = index
        for _ in range(wait):
            events += crowd.step()
    while crowd.busy:
        events += crowd.step()
    answers = {ids[event.id]: event.completion for event in events if hasattr(event, "completion")}
    for index, answer in answers.items():
        assert content(answer) == content(alone(model, folders, asked[index]))
    assert len(answers) == 8


def test_taped_and_eager_steps(folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[1]
    taped = [content(c) for c in serving(model, folders).generate(requests())]
    monkeypatch.setattr(engine_runner, "MAX_TAPES", 1)
    assert [content(c) for c in serving(model, folders).generate(requests())] == taped
    monkeypatch.setattr(engine_runner, "MAX_TAPED_ROWS", 0)
    assert [content(c) for c in serving(model, folders).generate(requests())] == taped


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_trainer_and_server_agree(model: Model, folders: dict[tuple[str, str], Path]) -> None:
    """The same base weights, whatever their format, and the same adapter: equal logprobs."""
    (request,) = [r for r in requests(2) if r.adapter == "a"]
    (answer,) = serving(model, folders).generate([request])
    decoder = load(model, TrainingOps(ops()))
    load_adapter(decoder, folders[model.name, "a"])
    assert (
        trained_logprobs(decoder, request.prompt + answer.tokens)[len(request.prompt) - 1 :]
        == answer.logprobs
    )


def trained_logprobs(decoder: Decoder, text: tuple[int, ...]) -> tuple[float, ...]:
    """Of all tokens but the first, by a forward pass that records gradients."""
    tokens = torch.tensor(text, dtype=torch.int32)
    attend = PackedAttend([len(text) - 1], decoder.ops)
    hidden_TD = decoder(tokens[:-1], attend.positions_T, attend)
    assert hidden_TD.requires_grad
    return tuple(decoder.logprobs(hidden_TD, tokens[1:]).tolist())


def test_prefixes_are_shared_only_under_the_same_adapter(folders: dict[tuple[str, str], Path]) -> None:
    engine = serving(MODELS[0], folders)
    cached = []
    for adapter in (None, "a", "b", "a", None):
        request = Request(prompt=SHARED[:50], params=SamplingParams(max_tokens=1), adapter=adapter)
        cached.append(engine.generate([request])[0].usage.cached_tokens)
    assert cached == [0, 0, 0, 48, 48]


def test_adapters_come_and_go(folders: dict[tuple[str, str], Path]) -> None:
    model = MODELS[0]
    engine = serving(model, folders, "a")
    request = Request(prompt=(1, 2, 3), params=SamplingParams(max_tokens=4), adapter="b")
    with pytest.raises(RequestError, match="adapter = 'b': there are a"):
        engine.submit(request)
    engine.add_adapter("b", folders[model.name, "b"])
    with pytest.raises(ConfigError, match="'b' is there already"):
        engine.add_adapter("b", folders[model.name, "a"])
    first = engine.generate([request])[0]
    engine.submit(request)
    with pytest.raises(RequestError, match="used by 1 unfinished"):
        engine.remove_adapter("b")
    while engine.busy:
        engine.step()
    engine.remove_adapter("b")
    with pytest.raises(ConfigError, match="no adapter 'b'; there are a"):
        engine.remove_adapter("b")
    engine.add_adapter("b", folders[model.name, "c"])
    assert engine.generate([request])[0].logprobs != first.logprobs
