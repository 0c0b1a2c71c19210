"""What the trainer computes is what the sampler computed: training is on policy, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mohist.engine.engine import Engine
from mohist.engine.runner import DecoderRunner
from mohist.kernels.autograd import TrainingOps
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.types import Completion, Request, SamplingParams
from tests.exact.models import CONFIGS, MODELS, Model, decoder, engine, load, ops
from tests.exact.requests import SHARED, alone

TINY_CHUNK = 7
"""Rows of logits at a time; few, so that there are several chunks."""


def sampled(model: Model, length: int, seed: int) -> tuple[Request, Completion]:
    params = SamplingParams(max_tokens=1 + seed % 20, temperature=1.1, seed=seed)
    request = Request(prompt=SHARED[-length:], params=params)
    return request, alone(model, request)


def packed_logprobs(trainer: Decoder, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logprobs of all tokens but the first of every text, from one packed pass."""
    lengths = [len(text) - 1 for text in texts]
    attend = PackedAttend(lengths, trainer.ops)
    tokens_T = torch.tensor([token for text in texts for token in text[:-1]], dtype=torch.int32)
    targets_T = torch.tensor([token for text in texts for token in text[1:]], dtype=torch.int32)
    hidden_TD = trainer(tokens_T, attend.positions_T, attend)
    return list(trainer.logprobs(hidden_TD, targets_T, chunk=TINY_CHUNK).split(lengths))


@pytest.mark.parametrize("model", MODELS, ids=str)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 80), st.integers(0, 40)), min_size=1, max_size=4),
    threads=st.sampled_from([1, 2]),
    recorded=st.booleans(),
)
@settings(max_examples=3)
def test_packed_forward_equals_the_sampler(
    model: Model, lengths: list[tuple[int, int]], threads: int, recorded: bool
) -> None:
    """f32 matrices are trained; the others stay frozen and pass gradients on to norms and biases."""
    trainer = load(model, TrainingOps(ops(threads)), trainable=model.storage == "f32")
    trainer.norm.value.requires_grad_()
    answers = [sampled(model, length, seed) for length, seed in lengths]
    with torch.set_grad_enabled(recorded):
        found = packed_logprobs(trainer, [request.prompt + answer.tokens for request, answer in answers])
    assert all(logprobs.requires_grad == recorded for logprobs in found)
    for (request, answer), logprobs in zip(answers, found, strict=True):
        assert tuple(logprobs[len(request.prompt) - 1 :].tolist()) == answer.logprobs


@pytest.mark.parametrize("name", CONFIGS)
@given(
    prompt=st.integers(1, 80),
    params=st.builds(
        SamplingParams,
        max_tokens=st.integers(1, 30),
        temperature=st.sampled_from([0.6, 1.0, 1.3]),
        top_k=st.sampled_from([0, 7]),
        top_p=st.sampled_from([0.8, 1.0]),
        min_p=st.sampled_from([0.0, 0.05]),
        seed=st.integers(0, 99),
    ),
)
@settings(max_examples=4)
def test_a_group_on_one_prompt_is_scored_as_sampled(name: str, prompt: int, params: SamplingParams) -> None:
    """The prompt is computed once, for all answers, and under what was really drawn from."""
    trainer = load(Model(name, "f32"), TrainingOps(ops(2)), trainable=True)
    answers = engine(decoder(Model(name, "f32"))).generate([SHARED[-prompt:]], params, num_samples=3)
    own = [answer.tokens[:-1] for answer in answers]
    lengths = [prompt, *map(len, own)]
    attend = PackedAttend(lengths, trainer.ops, continues=[None, 0, 0, 0])
    tokens = torch.tensor([*SHARED[-prompt:], *(token for tokens in own for token in tokens)]).int()
    rows = torch.arange(len(tokens)).split(lengths)
    predicting = [torch.cat((rows[0][-1:], each)) for each in rows[1:]]
    targets = torch.tensor([token for answer in answers for token in answer.tokens], dtype=torch.int32)
    hidden = trainer(tokens, attend.positions_T, attend)[torch.cat(predicting)]
    scores = trainer.scores(hidden, targets, params, chunk=TINY_CHUNK)
    assert scores.logprobs_T.tolist() == [x for answer in answers for x in answer.sampled_logprobs]
    raw = trainer.logprobs(hidden, targets, chunk=TINY_CHUNK)
    assert raw.tolist() == [x for answer in answers for x in answer.logprobs]


@pytest.mark.parametrize("taped", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_on_policy_while_training(name: str, taped: bool) -> None:
    """Sample, train, step in place, tell the engine: no stale tape, packed weight, fused bias or prefix."""
    native = ops(1 if taped else 2)
    trainer = load(Model(name, "f32"), TrainingOps(native), trainable=True)
    host = Engine(DecoderRunner(trainer, native if taped else trainer.ops, num_blocks=24))
    optimizer = torch.optim.SGD([p for p in trainer.parameters() if p.requires_grad], lr=0.05)
    params = SamplingParams(max_tokens=10, seed=3)
    seen: set[tuple[float, ...]] = set()
    for _ in range(2):
        # one sequence decodes on the tapes of one row, four on those of four
        answers = host.generate([SHARED[:20]], params) + host.generate([SHARED[:18]], params, num_samples=4)
        texts = [SHARED[:20] + answers[0].tokens, *(SHARED[:18] + answer.tokens for answer in answers[1:])]
        logprobs = packed_logprobs(trainer, texts)
        for answer, found in zip(answers, logprobs, strict=True):
            assert tuple(found[-len(answer.tokens) :].tolist()) == answer.logprobs
            assert answer.logprobs not in seen
        seen |= {answer.logprobs for answer in answers}
        optimizer.zero_grad()
        torch.cat(logprobs).sum().backward()
        optimizer.step()
        host.update_weights()
