"""Losses, as pure functions of log-probabilities: one number for every target, before weights.

What is minimised is the sum over targets of weight times loss; `mohist.train.weights` makes the weights, so
means over tokens, samples or groups are not decided here. Shape suffixes: J targets, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.train.batch import Batch
from mohist.train.weights import Aggregation

__all__ = [
    "Algorithm",
    "Loss",
    "PolicyConfig",
    "cispo",
    "clipped",
    "cross_entropy",
    "gspo",
    "k3",
    "policy_loss",
    "reinforce",
    "truncated_importance",
]

Algorithm = Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "reinforce"]


class Loss(Protocol):
    """What `Learner.forward_backward` minimises."""

    def __call__(self, logprobs_J: Tensor, batch: Batch, /) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss of every target [J], and further values [J] of which the mean is reported."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Which policy gradient. What is none is as the algorithm's paper has it."""

    algorithm: Algorithm = "grpo"
    """How ratios are clipped and what a token counts."""
    clip_low: float | None = None
    """Ratios under 1 - this are clipped; none for no lower bound in cispo, else the paper's."""
    clip_high: float | None = None
    """Ratios over 1 + this are clipped."""
    aggregation: Aggregation | None = None
    """What every token, sample or group counts."""
    kl: float = 0.0
    """Weight of the k3 divergence from the reference policy; 0 needs no reference."""
    importance_cap: float = 2.0
    """Where trainer and sampler differ, a token counts by their ratio, but never more than this."""

    def __post_init__(self) -> None:
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} = {value}: it must be at least 0")
        if self.kl < 0:
            raise ConfigError(f"kl = {self.kl}: it must be at least 0")
        if self.importance_cap < 1:
            raise ConfigError(f"importance_cap = {self.importance_cap}: it must be at least 1")

    @property
    def low(self) -> float:
        """`clip_low`, or the paper's; infinite for none."""
        return _PAPERS[self.algorithm][0] if self.clip_low is None else self.clip_low

    @property
    def high(self) -> float:
        """`clip_high`, or the paper's."""
        return _PAPERS[self.algorithm][1] if self.clip_high is None else self.clip_high

    @property
    def weighing(self) -> Aggregation:
        """`aggregation`, or the paper's: what `mohist.train.weights.weigh` is to be asked for."""
        return _PAPERS[self.algorithm][2] if self.aggregation is None else self.aggregation


_PAPERS: dict[Algorithm, tuple[float, float, Aggregation]] = {
    "grpo": (0.2, 0.2, "sample"),
    "dr_grpo": (0.2, 0.2, "constant"),
    "dapo": (0.2, 0.28, "token"),
    "gspo": (3e-4, 4e-4, "sample"),
    "cispo": (float("inf"), 4.0, "token"),
    "reinforce": (0.2, 0.2, "token"),
}
"""Clipping and aggregation: DeepSeekMath (arXiv 2402.03300), Dr.GRPO (2503.20783), DAPO (2503.14476, section
4.1), GSPO (2507.18071, section 5.1), CISPO (2506.13585) with ScaleRL's cap of 5 on the ratio (2510.13786),
REINFORCE++ (2501.03262)."""


def policy_loss(config: PolicyConfig) -> Loss:
    """The loss that `config` describes, for batches of sampled answers."""

    def loss(logprobs_J: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.old_logprobs_J is not None, "a policy loss needs the logprobs of sampled tokens"
        assert batch.sampler_logprobs_J is not None
        losses_J, clipped_J = _surrogate(config, logprobs_J, batch.old_logprobs_J, batch)
        correction_J = truncated_importance(
            batch.old_logprobs_J, batch.sampler_logprobs_J, cap=config.importance_cap
        )
        losses_J = losses_J * correction_J
        values = {"clipped": clipped_J, "importance": correction_J}
        if config.kl:
            assert batch.reference_logprobs_J is not None, "kl > 0 needs the reference's logprobs"
            kl_J = k3(logprobs_J, batch.reference_logprobs_J)
            losses_J = losses_J + config.kl * kl_J
            values["kl"] = kl_J.detach()
        return losses_J, values

    return loss


def cross_entropy(logprobs_J: Tensor, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Minus the log-probability of every target."""
    return -logprobs_J, {}


def clipped(
    logprobs_J: Tensor, old_logprobs_J: Tensor, advantages_J: Tensor, *, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r, 1 - low, 1 + high) A), r the ratio of a token's probabilities; and where it clips.

    DeepSeekMath, arXiv 2402.03300, equation 3, without its KL term; with low != high DAPO, arXiv 2503.14476,
    equation 8.
    """
    ratio_J = (logprobs_J - old_logprobs_J).exp()
    return _clip(ratio_J, advantages_J, low, high)


def gspo(
    logprobs_J: Tensor,
    old_logprobs_J: Tensor,
    advantages_J: Tensor,
    samples_J: Tensor,
    *,
    low: float,
    high: float,
) -> tuple[Tensor, Tensor]:
    """`clipped` with one ratio a sample: the geometric mean of its tokens'.

    arXiv 2507.18071, equations 5 and 7.

    Targets of a sample are consecutive in `samples_J`.
    """
    _, sample_J, counts_S = torch.unique_consecutive(samples_J, return_inverse=True, return_counts=True)
    sums_S = torch.zeros(len(counts_S), dtype=logprobs_J.dtype, device=logprobs_J.device)
    means_S = sums_S.index_add(0, sample_J, logprobs_J - old_logprobs_J) / counts_S
    return _clip(means_S.exp()[sample_J], advantages_J, low, high)


def cispo(
    logprobs_J: Tensor, old_logprobs_J: Tensor, advantages_J: Tensor, *, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """-sg(clip(r, 1 - low, 1 + high)) A log p: every token keeps its gradient.

    arXiv 2506.13585, equation 4.
    """
    ratio_J = (logprobs_J.detach() - old_logprobs_J).exp()
    bounded_J = ratio_J.clamp(1 - low, 1 + high)
    return -bounded_J * advantages_J * logprobs_J, (bounded_J != ratio_J).to(ratio_J.dtype)


def reinforce(logprobs_J: Tensor, advantages_J: Tensor) -> Tensor:
    """-A log p, the policy gradient itself (Williams 1992): right only for samples of these very weights."""
    return -advantages_J * logprobs_J


def k3(logprobs_J: Tensor, reference_logprobs_J: Tensor) -> Tensor:
    """q/p - log(q/p) - 1 >= 0 with reference q: an unbiased estimate of KL(p, q) for samples of p.

    DeepSeekMath, arXiv 2402.03300, equation 4; http://joschu.net/blog/kl-approx.html.
    """
    log_ratio_J = reference_logprobs_J - logprobs_J
    return log_ratio_J.exp() - log_ratio_J - 1


def truncated_importance(old_logprobs_J: Tensor, sampler_logprobs_J: Tensor, *, cap: float) -> Tensor:
    """min(p / q, cap) of the trainer's and the sampler's probability of a token: exactly 1 where they agree.

    Truncated importance sampling, for samplers that are not exact (Yao et al. 2025,
    https://fengyao.notion.site/off-policy-rl).
    """
    return (old_logprobs_J - sampler_logprobs_J).exp().clamp(max=cap)


def _surrogate(
    config: PolicyConfig, logprobs_J: Tensor, old_J: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    bounds = {"low": config.low, "high": config.high}
    match config.algorithm:
        case "gspo":
            return gspo(logprobs_J, old_J, batch.advantages_J, batch.samples_J, **bounds)
        case "cispo":
            return cispo(logprobs_J, old_J, batch.advantages_J, **bounds)
        case _:
            return clipped(logprobs_J, old_J, batch.advantages_J, **bounds)


def _clip(ratio_J: Tensor, advantages_J: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    free_J, bound_J = ratio_J * advantages_J, ratio_J.clamp(1 - low, 1 + high) * advantages_J
    return -torch.minimum(free_J, bound_J), (bound_J < free_J).to(ratio_J.dtype)
