"""Balanced experts and multi-token prediction against their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import RouteSpec
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.feedforward import MixtureOfExperts
from mohist.model.load import init_decoder
from mohist.train.extras import ExtrasConfig, Routers, balance, drafts
from mohist.train.learner import Learner
from mohist.train.losses import cross_entropy
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from mohist.types import Sample
from tests.exact.models import CONFIGS, ops
from tests.train import made


def plain_balance(logits: list[list[float]], experts: list[list[int]], top_k: int) -> float:
    """DeepSeek-V3, equations 17 to 20, for one sequence."""
    rows, count = len(logits), len(logits[0])
    scores = [[1 / (1 + math.exp(-x)) for x in row] for row in logits]
    total = 0.0
    for expert in range(count):
        fraction = count / (top_k * rows) * sum(expert in chosen for chosen in experts)
        share = sum(row[expert] / sum(row) for row in scores) / rows
        total += fraction * share
    return total


def test_balance_is_its_equations() -> None:
    spec = RouteSpec(top_k=2, scoring="sigmoid", renormalize=True)
    logits_TE = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    experts_TK, _ = TorchOps().route(logits_TE, spec, bias_E=None)
    sample_T = torch.tensor([0] * 4 + [1] * 5)
    found_S = balance(logits_TE, experts_TK, spec, sample_T)
    for index, rows in enumerate((slice(0, 4), slice(4, 9))):
        expected = plain_balance(logits_TE[rows].tolist(), experts_TK[rows].tolist(), 2)
        assert float(found_S[index]) == pytest.approx(expected, rel=1e-5)


def test_biases_move_against_the_load() -> None:
    decoder = init_decoder(CONFIGS["deepseek_v3"], TrainingOps(ops(1)), seed=0, std=0.1)
    one = Learner(
        decoder, OptimConfig(lr=0.0), total_steps=2, extras=ExtrasConfig(bias_rate=0.5, balance=0, mtp=0)
    )
    batches = one.pack(weigh(made.texts(6), "token"), max_tokens=60)
    one.forward_backward(batches, cross_entropy)
    (load,) = [count.clone() for count in one.routers.loads]
    rows = sum(batch.num_tokens for batch in batches)
    assert int(load.sum()) == 3 * rows  # top_k
    mean = load.sum() / len(load)
    metrics = one.optim_step()
    assert metrics["expert_overload"] == pytest.approx(float(load.max() / mean - 1))
    (layer,) = [module for module in decoder.modules() if isinstance(module, MixtureOfExperts)]
    assert layer.router_bias is not None
    expected = [0.5 if count < mean else -0.5 if count > mean else 0.0 for count in load]
    assert layer.router_bias.value.tolist() == expected
    assert one.routers.loads[0].tolist() == [0] * len(load)
    one.forward_backward(batches, cross_entropy)
    assert one.routers.loads[0].tolist() != load.tolist()


def test_without_experts_nothing_is_reported() -> None:
    assert Routers(init_decoder(CONFIGS["llama"], TorchOps(), seed=0)).rebalance(0.1) == {}


def test_drafts_look_further_ahead() -> None:
    first = Sample(tokens=(1, 2, 3, 4), weights=(0.0, 0.0, 0.25, 0.5))
    second = Sample(tokens=(5, 6), weights=(0.0, 1.0))
    one, two = drafts(made.whole([first, second]), 2)
    # rows: 1 2 3 | 5; module 1 sees the token after the row and predicts the one after that
    assert one.next_tokens_T.tolist() == [2, 3, 4, 6]
    assert one.rows_J.tolist() == [0, 1]
    assert one.targets_J.tolist() == [3, 4]
    assert one.weights_J.tolist() == [0.25, 0.5]
    assert two.next_tokens_T.tolist()[0] == 3
    assert two.rows_J.tolist() == [0]
    assert two.targets_J.tolist() == [4]
    assert two.weights_J.tolist() == [0.5]


def test_mtp_loss_is_that_of_each_text_alone() -> None:
    config = replace(CONFIGS["deepseek_v3"], mtp_layers=2)
    decoder = init_decoder(config, TrainingOps(ops(1)), seed=0, std=0.1)
    extras = ExtrasConfig(bias_rate=0, balance=0, mtp=0.6)
    one = Learner(decoder, OptimConfig(), total_steps=1, extras=extras)
    samples = weigh(made.texts(3), "token")
    found = one.forward_backward(one.pack(samples, max_tokens=1000), cross_entropy)["mtp_loss"]

    def logprobs(hidden_TD: Tensor, targets: tuple[int, ...]) -> list[float]:
        return decoder.logprobs(hidden_TD[: len(targets)], torch.tensor(targets).int()).tolist()

    expected = 0.0
    for sample in samples:
        tokens = sample.tokens
        attend = PackedAttend([len(tokens) - 1], decoder.ops)
        with torch.no_grad():
            hidden_TD = decoder(torch.tensor(tokens[:-1]).int(), attend.positions_T, attend)
            for depth in range(2):
                shown = (tokens + tokens)[1 + depth : len(tokens) + depth]
                hidden_TD = decoder.draft(
                    hidden_TD, torch.tensor(shown).int(), attend.positions_T, attend, depth=depth
                )
                wanted = tokens[2 + depth :]
                for value, weight in zip(
                    logprobs(hidden_TD, wanted) if wanted else [], sample.weights[2 + depth :], strict=True
                ):
                    expected -= 0.3 * weight * value
    assert found == pytest.approx(expected, rel=1e-5)


def test_modules_without_weight_stay_as_they_are() -> None:
    config = replace(CONFIGS["deepseek_v3"], mtp_layers=1)
    decoder = init_decoder(config, TrainingOps(ops(1)), seed=0)
    one = Learner(decoder, OptimConfig(), total_steps=1)
    before = {name: p.detach().clone() for name, p in decoder.named_parameters()}
    one.forward_backward(one.pack(weigh(made.texts(2), "token"), max_tokens=1000), cross_entropy)
    one.optim_step()
    for name, parameter in decoder.named_parameters():
        unchanged = name.startswith("mtp.") or name.endswith("router_bias.value")
        assert torch.equal(parameter, before[name]) == unchanged, name


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="mtp = -1"):
        ExtrasConfig(mtp=-1)


def test_texts_may_be_too_short_for_a_draft() -> None:
    pair = Sample(tokens=(5, 6), weights=(0.0, 1.0))
    assert list(drafts(made.whole([pair, pair]), 2)) == []
    assert len(list(drafts(made.whole([Sample(tokens=(5, 6, 7), weights=(0.0, 1.0, 1.0))]), 2))) == 1
