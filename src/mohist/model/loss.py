"""What rounding a model's weights costs: the same text under both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder

__all__ = ["CLEAR_NATS", "Loss", "measure_loss"]

_CHUNK_ROWS = 64


CLEAR_NATS = 0.1
"""By so much a model prefers its likeliest token to the second before a place counts as clear."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How far a model is from another on one text."""

    num_tokens: int
    """Tokens that were predicted."""
    reference_perplexity: float
    perplexity: float
    divergence: float
    """Mean Kullback-Leibler divergence from the reference's distribution, in nats."""
    agreement: float
    """Share of places where both find the same token most likely."""
    clear: float
    """Share of places where the reference prefers one token clearly."""
    clear_agreement: float
    """Share of those where both find the same token most likely; NaN if there are none."""

    def line(self) -> str:
        """For people."""
        ratio = self.perplexity / self.reference_perplexity - 1
        among = f"the {self.clear:.0%} where it leads by {CLEAR_NATS} nats"
        return (
            f"perplexity {self.reference_perplexity:.4f} -> {self.perplexity:.4f} ({ratio:+.2%}), "
            f"divergence {self.divergence:.5f} nats, "
            f"same likeliest token at {self.agreement:.2%} of {self.num_tokens:,} places"
            + (f", at {self.clear_agreement:.2%} of {among}" if self.clear else "")
        )


@torch.no_grad()
def measure_loss(reference: Decoder, other: Decoder, tokens: Sequence[int]) -> Loss:
    """Both models' predictions of `tokens[1:]`; no more of them than the models' context holds."""
    used = torch.tensor(tokens[: reference.config.max_positions], dtype=torch.int32)
    hidden = [_hidden(decoder, used).split(_CHUNK_ROWS) for decoder in (reference, other)]
    rows = [
        _compared(reference.logits(expected), other.logits(found), targets)
        for expected, found, targets in zip(*hidden, used[1:].split(_CHUNK_ROWS), strict=True)
    ]
    expected_nats, nats, divergence, lead, same = torch.cat(rows, dim=1)
    is_clear = lead > CLEAR_NATS
    return Loss(
        num_tokens=len(same),
        reference_perplexity=math.exp(expected_nats.mean().item()),
        perplexity=math.exp(nats.mean().item()),
        divergence=divergence.mean().item(),
        agreement=same.mean().item(),
        clear=is_clear.double().mean().item(),
        clear_agreement=same[is_clear].mean().item() if is_clear.any() else math.nan,
    )


def _hidden(decoder: Decoder, tokens_T: torch.Tensor) -> torch.Tensor:
    """Hidden states [T - 1, D] that predict all tokens but the first."""
    attend = PackedAttend([len(tokens_T)], decoder.ops)
    return decoder(tokens_T.to(decoder.ops.device), attend.positions_T, attend)[:-1]


def _compared(expected_TV: torch.Tensor, found_TV: torch.Tensor, targets_T: torch.Tensor) -> torch.Tensor:
    """Float64 [5, T]: nats of the targets by both, divergence, the first's lead, same likeliest token."""
    expected_TV = expected_TV.cpu().double().log_softmax(1)
    found_TV = found_TV.cpu().double().log_softmax(1)
    target_T1 = targets_T[:, None].long()
    first, second = expected_TV.topk(2, dim=1).values.T
    return torch.stack(
        (
            -expected_TV.gather(1, target_T1).squeeze(1),
            -found_TV.gather(1, target_T1).squeeze(1),
            (expected_TV.exp() * (expected_TV - found_TV)).sum(1),
            first - second,
            (expected_TV.argmax(1) == found_TV.argmax(1)).double(),
        )
    )
