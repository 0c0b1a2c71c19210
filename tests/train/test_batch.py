"""Packing: nothing padded, nothing lost, nothing seen that is another sample's."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.twin import TorchOps
from mohist.model.load import init_decoder
from mohist.train.batch import pack
from mohist.train.learner import score
from tests.exact.models import CONFIGS, ops
from tests.train import made


@given(
    count=st.integers(0, 12), max_tokens=st.integers(40, 200), seed=st.integers(0, 99), share=st.booleans()
)
@settings(max_examples=30)
def test_every_target_is_there_once(count: int, max_tokens: int, seed: int, share: bool) -> None:
    samples = made.texts(count // 2, seed=seed) + made.answers(count // 3, 3, seed=seed)
    batches = pack(samples, max_tokens=max_tokens, ops=TorchOps(), share=share)
    assert all(batch.num_tokens <= max_tokens for batch in batches)
    found = Counter()
    for batch in batches:
        assert len(batch.attend.positions_T) == batch.num_tokens
        assert batch.next_tokens_T.shape == batch.samples_T.shape == batch.tokens_T.shape
        for row, target, sample in zip(batch.rows_J, batch.targets_J, batch.samples_J, strict=True):
            position = int(batch.attend.positions_T[row]) + 1
            tokens = samples[sample].tokens
            assert tokens[position] == target
            assert tokens[position - 1] == batch.tokens_T[row]
            found[int(sample), position] += 1
    expected = {(i, j) for i, s in enumerate(samples) for j, w in enumerate(s.weights) if j and w}
    assert found == Counter(expected)


@pytest.mark.parametrize("name", ["qwen3", "deepseek_v3"])
def test_sharing_a_prompt_changes_no_logprob(name: str) -> None:
    samples = made.answers(3, 4, context=50)
    decoder = init_decoder(CONFIGS[name], TrainingOps(ops(1)), seed=0, std=0.1)
    assert decoder.embed.parameter is not None
    (once,) = pack(samples, max_tokens=1000, ops=decoder.ops)
    (again,) = pack(samples, max_tokens=1000, ops=decoder.ops, share=False)
    assert once.is_shared
    assert not again.is_shared
    assert once.num_tokens < again.num_tokens
    gradients = []
    for batch in (once, again):
        logprobs_J = score(decoder, batch)
        gradients.append(
            torch.autograd.grad((logprobs_J * batch.advantages_J).sum(), decoder.embed.parameter)
        )
        assert torch.equal(logprobs_J, score(decoder, again))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_the_answer_of_one_token_needs_no_row_of_its_own() -> None:
    sample, *_ = made.answers(1, 1)
    tokens = (*sample.tokens[: sample.num_shared], 5)
    weights = (0.0,) * sample.num_shared + (1.0,)
    short = type(sample)(tokens=tokens, weights=weights, num_shared=sample.num_shared)
    batch = made.whole([short, short])
    assert batch.num_tokens == sample.num_shared
    assert batch.rows_J.tolist() == [sample.num_shared - 1] * 2
    assert batch.sampler_logprobs_J is None


def test_a_sample_that_does_not_fit_is_an_error() -> None:
    sample, *_ = made.texts(1, seed=3)
    with pytest.raises(ConfigError, match=f"max_tokens = 1: .* raise it to {len(sample.tokens) - 1}"):
        pack([sample], max_tokens=1, ops=TorchOps())
