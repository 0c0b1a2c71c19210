"""The samples of one prompt: each as if drawn apart, all together distributed as the model says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping

import pytest

from mohist.engine.engine import Engine, EngineConfig
from mohist.kernels.sampling import SampleRow
from mohist.types import Request, SamplingParams
from tests.exact.models import CONFIGS, MODELS, VOCAB, Model, decoder, engine, noise, ops
from tests.exact.requests import SHARED, alone, content

COUNT = 4000


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_together_and_apart(model: Model) -> None:
    params = SamplingParams(max_tokens=8, seed=5, top_logprobs=1)
    together = engine(decoder(model, 2)).generate([SHARED[:37]], params, num_samples=6)
    apart = [alone(model, Request(prompt=SHARED[:37], params=params, sample=i)) for i in range(6)]
    assert [content(c) for c in together] == [content(c) for c in apart]
    assert len({c.tokens for c in together}) == 6


def test_asking_for_more_than_there_is() -> None:
    """A vocabulary smaller than `top_logprobs`, and a `top_k` beyond 32 bits."""
    logits = noise("logits", 1, 13)
    row = SampleRow(SamplingParams(top_logprobs=64, top_k=2**32 + 1), 0, 9, {})
    drawn = ops().sample(logits, [row])
    assert drawn == ops(definition=True).sample(logits, [row])
    assert drawn == ops().sample(logits, [row._replace(params=SamplingParams(top_logprobs=13))])
    assert [token for token, _ in drawn.top[0]] == logits[0].argsort(descending=True).tolist()


def crowd(name: str) -> Engine:
    limits = EngineConfig(max_running=256, max_step_tokens=512)
    return engine(decoder(Model(name, "f32")), num_blocks=512, config=limits)


def assert_follows(drawn: Iterable[Hashable], expected: Mapping[Hashable, float]) -> None:
    """Pearson's chi-square within 4 sigma; outcomes expected less than five times are taken together."""
    counts = Counter(drawn)
    total = counts.total()
    assert counts.keys() <= expected.keys()
    assert math.isclose(sum(expected.values()), 1, abs_tol=1e-5)
    common = {outcome for outcome, p in expected.items() if p * total >= 5}
    cells = [(counts[outcome], expected[outcome] * total) for outcome in common]
    cells.append((total - sum(n for n, _ in cells), total - sum(e for _, e in cells)))
    cells = [(n, e) for n, e in cells if e >= 1]
    freedom = len(cells) - 1
    chi_square = sum((n - e) ** 2 / e for n, e in cells)
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom), (chi_square, freedom, cells)


def next_token(host: Engine, prompt: tuple[int, ...]) -> dict[Hashable, float]:
    """The model's own distribution after a prompt, by scoring every token."""
    texts = [((*prompt, token), len(prompt)) for token in range(VOCAB)]
    return {token: math.exp(logprob) for token, (logprob,) in enumerate(host.score_batch(texts))}


@pytest.mark.parametrize("name", CONFIGS)
def test_samples_follow_the_model(name: str) -> None:
    """First tokens, second tokens after the likeliest first, and neighbouring samples against each other."""
    host = crowd(name)
    first = next_token(host, (3,))
    answers = host.generate([(3,)], SamplingParams(max_tokens=2, seed=11), num_samples=COUNT)
    assert_follows((c.tokens[0] for c in answers), first)
    for c in answers:
        assert math.isclose(math.exp(c.logprobs[0]), first[c.tokens[0]], rel_tol=1e-6)
        assert c.sampled_logprobs == c.logprobs
    likeliest = max(first, key=first.__getitem__)
    assert isinstance(likeliest, int)
    after = [c.tokens[1] for c in answers if c.tokens[0] == likeliest]
    assert_follows(after, next_token(host, (3, likeliest)))

    p = first[likeliest]
    hits = [c.tokens[0] == likeliest for c in answers]
    chance = {True: p, False: 1 - p}
    pairs: dict[Hashable, float] = {(a, b): chance[a] * chance[b] for a in chance for b in chance}
    assert_follows(zip(hits[::2], hits[1::2], strict=True), pairs)


def test_seeds_follow_the_model() -> None:
    host = crowd("llama")
    requests = [Request(prompt=(3,), params=SamplingParams(max_tokens=1, seed=seed)) for seed in range(COUNT)]
    assert_follows((c.tokens[0] for c in host.generate(requests)), next_token(host, (3,)))


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=1, temperature=0.6),
        SamplingParams(max_tokens=1, top_k=6),
        SamplingParams(max_tokens=1, top_p=0.7),
        SamplingParams(max_tokens=1, min_p=0.2, temperature=1.5),
        SamplingParams(max_tokens=1, top_k=9, top_p=0.8, temperature=0.9, repetition_penalty=1.5),
    ],
    ids=lambda p: ", ".join(f"{k} {getattr(p, k)}" for k in ("temperature", "top_k", "top_p", "min_p")),
)
def test_samples_follow_what_was_asked(params: SamplingParams) -> None:
    """Truncated and tempered: as often as `sampled_logprobs` says, which by itself is a distribution."""
    answers = crowd("qwen3").generate([(3,)], params, num_samples=COUNT)
    stated: dict[Hashable, float] = {c.tokens[0]: math.exp(c.sampled_logprobs[0]) for c in answers}
    missing = 1 - sum(stated.values())
    assert -1e-5 < missing < 0.01
    assert_follows((c.tokens[0] for c in answers), stated | {"never drawn": max(missing, 0)})
