"""Every loss against a plain reading of its paper's equation, one token at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.train.losses import PolicyConfig, cross_entropy, k3, policy_loss, reinforce, truncated_importance
from mohist.train.weights import weigh
from mohist.types import Sample
from tests.train import made

GROUPS, SIZE, LONGEST = 3, 4, 20


def case() -> tuple[list[Sample], Tensor, Tensor]:
    """Answers in groups; logprobs of the policy and of a reference, both near the sampler's, in float64."""
    samples = made.answers(GROUPS, SIZE)
    old = made.whole(samples).old_logprobs_J
    assert old is not None
    return samples, made.noisy(old.double()), made.noisy(old.double(), seed=1)


def rows(samples: Sequence[Sample], values_J: Tensor) -> list[list[float]]:
    """One list of numbers for every sample, from one number for every target."""
    lengths = [sum(map(bool, sample.weights)) for sample in samples]
    return [part.tolist() for part in values_J.split(lengths)]


def total(config: PolicyConfig, samples: Sequence[Sample], logprobs_J: Tensor, reference_J: Tensor) -> Tensor:
    """What the learner would minimise."""
    groups = [i // SIZE for i in range(len(samples))]
    weighed = weigh(samples, config.weighing, groups=groups, constant=LONGEST)
    batch = replace(made.whole(weighed), reference_logprobs_J=reference_J)
    losses_J, _ = policy_loss(config)(logprobs_J, batch)
    return (losses_J * batch.weights_J).sum()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def token(policy: float, old: float, advantage: float, low: float, high: float) -> float:
    """The term that GRPO's and PPO's objectives take the mean of, to be maximised."""
    ratio = math.exp(policy - old)
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def divergence(policy: float, reference: float) -> float:
    return math.exp(reference - policy) - (reference - policy) - 1


def grpo(policy: list[list[float]], old: list[list[float]], ref: list[list[float]], a: list[float]) -> float:
    """DeepSeekMath, equation 3, with epsilon 0.2 and beta 0.1."""
    return mean(
        [
            mean(
                [token(p, o, a[i], 0.2, 0.2) - 0.1 * divergence(p, r) for p, o, r in zip(*three, strict=True)]
            )
            for i, three in enumerate(zip(policy, old, ref, strict=True))
        ]
    )


def dr_grpo(
    policy: list[list[float]], old: list[list[float]], ref: list[list[float]], a: list[float]
) -> float:
    """Dr.GRPO: neither divided by the length of an answer nor by anything but a constant."""
    sums = [
        sum(token(p, o, a[i], 0.2, 0.2) for p, o in zip(*pair, strict=True))
        for i, pair in enumerate(zip(policy, old, strict=True))
    ]
    return mean(sums) / LONGEST


def dapo(policy: list[list[float]], old: list[list[float]], ref: list[list[float]], a: list[float]) -> float:
    """DAPO, equation 8: all tokens of all answers alike, and more room above."""
    return mean(
        [
            token(p, o, a[i], 0.2, 0.28)
            for i, pair in enumerate(zip(policy, old, strict=True))
            for p, o in zip(*pair, strict=True)
        ]
    )


def gspo(policy: list[list[float]], old: list[list[float]], ref: list[list[float]], a: list[float]) -> float:
    """GSPO, equations 5 and 7."""
    ratios = [mean([p - o for p, o in zip(*pair, strict=True)]) for pair in zip(policy, old, strict=True)]
    return mean([token(ratio, 0.0, a[i], 3e-4, 4e-4) for i, ratio in enumerate(ratios)])


def cispo(policy: list[list[float]], old: list[list[float]], ref: list[list[float]], a: list[float]) -> float:
    """CISPO, equation 4, without a lower bound and with the upper one at 5."""
    return mean(
        [
            min(math.exp(p - o), 5) * a[i] * p
            for i, pair in enumerate(zip(policy, old, strict=True))
            for p, o in zip(*pair, strict=True)
        ]
    )


Reference = Callable[[list[list[float]], list[list[float]], list[list[float]], list[float]], float]


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (PolicyConfig(algorithm="grpo", kl=0.1), grpo),
        (PolicyConfig(algorithm="dr_grpo"), dr_grpo),
        (PolicyConfig(algorithm="dapo"), dapo),
        (PolicyConfig(algorithm="gspo"), gspo),
        (PolicyConfig(algorithm="cispo"), cispo),
    ],
    ids=lambda value: getattr(value, "algorithm", ""),
)
def test_losses_are_their_equations(config: PolicyConfig, objective: Reference) -> None:
    samples, policy_J, reference_J = case()
    old_J = made.whole(samples).old_logprobs_J
    assert old_J is not None
    parts = (rows(samples, values) for values in (policy_J, old_J.double(), reference_J))
    expected = objective(*parts, [sample.advantage for sample in samples])
    assert float(total(config, samples, policy_J, reference_J)) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("algorithm", ["grpo", "dr_grpo", "dapo", "cispo", "reinforce"])
def test_on_policy_all_have_the_gradient_of_reinforce(algorithm: Any) -> None:
    batch = made.whole(made.answers(2, 3))
    assert batch.old_logprobs_J is not None
    gradients = []
    for plain in (False, True):
        leaf_J = batch.old_logprobs_J.clone().requires_grad_()
        if plain:
            losses_J = reinforce(leaf_J, batch.advantages_J)
        else:
            losses_J, values = policy_loss(PolicyConfig(algorithm=algorithm))(leaf_J, batch)
            assert values["importance"].tolist() == [1.0] * len(leaf_J)
            assert values["clipped"].tolist() == [0.0] * len(leaf_J)
        gradients.append(torch.autograd.grad(losses_J.sum(), leaf_J)[0])
    assert torch.equal(*gradients)


def test_sequence_ratios_on_policy() -> None:
    """GSPO's gradient is that of the mean over an answer's tokens."""
    batch = made.whole(made.answers(2, 3))
    assert batch.old_logprobs_J is not None
    leaf_J = batch.old_logprobs_J.clone().requires_grad_()
    losses_J, _ = policy_loss(PolicyConfig(algorithm="gspo"))(leaf_J, batch)
    (gradient_J,) = torch.autograd.grad(losses_J.sum(), leaf_J)
    torch.testing.assert_close(gradient_J, -batch.advantages_J)


def test_k3_estimates_the_divergence() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.5, 0.3])
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close((p * k3(p.log(), q.log())).sum(), expected)
    assert (k3(torch.randn(100), torch.randn(100)) >= 0).all()


def test_importance_is_truncated() -> None:
    old, sampler = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -3.0, 0.0])
    expected = torch.tensor([1.0, 2.0, math.exp(-1)])
    torch.testing.assert_close(truncated_importance(old, sampler, cap=2.0), expected)


def test_cross_entropy() -> None:
    batch = made.whole(made.texts(2))
    losses_J, values = cross_entropy(torch.arange(3.0), batch)
    assert losses_J.tolist() == [0.0, -1.0, -2.0]
    assert values == {}


def test_configs_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"clip_low = -0\.1"):
        PolicyConfig(clip_low=-0.1)
    with pytest.raises(ConfigError, match=r"importance_cap = 0\.5"):
        PolicyConfig(importance_cap=0.5)
    assert (PolicyConfig(algorithm="dapo", clip_high=0.5).high, PolicyConfig(algorithm="dapo").high) == (
        0.5,
        0.28,
    )


# --- TRL ---------------------------------------------------------------------------------------------------


def padded(samples: Sequence[Sample], values_J: Tensor) -> Tensor:
    """[samples, longest answer], zeros behind."""
    parts = rows(samples, values_J)
    width = max(map(len, parts))
    return torch.tensor([part + [0.0] * (width - len(part)) for part in parts])


def trl_loss(samples: Sequence[Sample], logprobs: Tensor, reference: Tensor, **settings: Any) -> Tensor:
    """TRL's own loss on padded logprobs: its method, called on an object with just what it reads."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trl = pytest.importorskip("trl", reason="TRL is not installed")
        compute = trl.GRPOTrainer._compute_loss
    old_J = made.whole(list(samples)).old_logprobs_J
    assert old_J is not None
    mask = padded(samples, torch.ones(len(old_J)))
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, **_: x),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        **{"importance_sampling_level": "token", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.0}
        | settings,
    )
    inputs = {
        "prompt_ids": torch.zeros(len(samples), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(samples), 1),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": torch.tensor([sample.advantage for sample in samples]),
        "old_per_token_logps": padded(samples, old_J),
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return compute(trainer, None, inputs)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (PolicyConfig(algorithm="grpo", kl=0.04), {"loss_type": "grpo", "beta": 0.04}),
        (PolicyConfig(algorithm="dr_grpo"), {"loss_type": "dr_grpo"}),
        (PolicyConfig(algorithm="dapo"), {"loss_type": "dapo", "epsilon_high": 0.28}),
        (PolicyConfig(algorithm="cispo"), {"loss_type": "cispo", "epsilon_high": 5.0}),
        (
            PolicyConfig(algorithm="gspo"),
            {
                "loss_type": "grpo",
                "importance_sampling_level": "sequence",
                "epsilon_low": 3e-4,
                "epsilon_high": 4e-4,
            },
        ),
    ],
    ids=lambda value: getattr(value, "algorithm", ""),
)
def test_losses_and_gradients_are_those_of_trl(config: PolicyConfig, settings: dict[str, Any]) -> None:
    samples, policy_J, reference_J = case()
    ours_J = policy_J.float().requires_grad_()
    ours = total(config, samples, ours_J, reference_J.float())
    theirs_BT = padded(samples, policy_J.float()).requires_grad_()
    theirs = trl_loss(samples, theirs_BT, padded(samples, reference_J.float()), **settings)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    (gradient_J,) = torch.autograd.grad(ours, ours_J)
    (gradient_BT,) = torch.autograd.grad(theirs, theirs_BT)
    torch.testing.assert_close(padded(samples, gradient_J), gradient_BT, rtol=1e-6, atol=1e-6)
