"""What rounding a model's weights costs: the same text under both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder

__all__ = ["Loss", "measure_loss"]

_CHUNK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Loss:
    """How far a model is from another on one text."""

    num_tokens: int
    """Tokens that were predicted."""
    reference_perplexity: float
    perplexity: float
    agreement: float
    """Share of places where both find the same token most likely."""

    def line(self) -> str:
        """For people."""
        ratio = self.perplexity / self.reference_perplexity - 1
        return (
            f"perplexity {self.reference_perplexity:.4f} -> {self.perplexity:.4f} ({ratio:+.2%}), "
            f"same likeliest token at {self.agreement:.2%} of {self.num_tokens:,} places"
        )


def measure_loss(reference: Decoder, other: Decoder, tokens: Sequence[int]) -> Loss:
    """Both models' predictions of `tokens[1:]`; no more of them than the models' context holds."""
    used = torch.tensor(tokens[: reference.config.max_positions], dtype=torch.int32)
    expected_nats, expected_best = _predictions(reference, used)
    nats, best = _predictions(other, used)
    return Loss(
        num_tokens=len(best),
        reference_perplexity=math.exp(expected_nats),
        perplexity=math.exp(nats),
        agreement=(best == expected_best).double().mean().item(),
    )


@torch.no_grad()
def _predictions(decoder: Decoder, tokens_T: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Mean negative log-probability of each next token, and the likeliest token at each place."""
    ops = decoder.ops
    positions_T = torch.arange(len(tokens_T), dtype=torch.int32)
    attend = PackedAttend([len(tokens_T)], ops)
    hidden_TD = decoder(tokens_T.to(ops.device), positions_T.to(ops.device), attend)[:-1]
    targets_T = tokens_T[1:].to(ops.device)
    nats = -decoder.logprobs(hidden_TD, targets_T).double().mean().item()
    best = [decoder.logits(rows).argmax(dim=1).cpu() for rows in hidden_TD.split(_CHUNK_ROWS)]
    return nats, torch.cat(best)
