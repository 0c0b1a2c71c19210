"""Samples packed into rows: never padded, and no row sees another sample's.

Shape suffixes: T packed rows, J targets (tokens that the loss may count), S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.kernels.ops import Ops
from mohist.model.attend import PackedAttend
from mohist.types import Sample

__all__ = ["Batch", "pack"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """One micro-batch. A row is a token that predicts the next one, so a sample's last token has none."""

    attend: PackedAttend
    """Lets every row see its own sample so far; knows the rows' positions."""
    tokens_T: Tensor
    """int32: the rows."""
    next_tokens_T: Tensor
    """int32: the token after each row, in the row's own sample."""
    samples_T: Tensor
    """int64: index of each row's sample in what `pack` was given."""
    rows_J: Tensor
    """int64: the row that predicts each target."""
    targets_J: Tensor
    """int32: the tokens whose weight is not 0."""
    samples_J: Tensor
    """int64: index of each target's sample in what `pack` was given."""
    weights_J: Tensor
    """float32: how much each target counts (see `mohist.train.weights`)."""
    advantages_J: Tensor
    """float32: of each target's sample."""
    sampler_logprobs_J: Tensor | None
    """float32: under the distribution that the targets were drawn from; None if any sample has none."""
    old_logprobs_J: Tensor | None
    """float32: under the policy that ratios refer to. `pack` sets it to the sampler's."""
    reference_logprobs_J: Tensor | None = None
    """float32: under the frozen policy that a KL term refers to."""

    @property
    def num_tokens(self) -> int:
        """Rows."""
        return len(self.tokens_T)


def pack(samples: Sequence[Sample], *, max_tokens: int, ops: Ops) -> list[Batch]:
    """Micro-batches of at most `max_tokens` rows, in the order of `samples`, each sample whole.

    Samples without a target are left out. Raises ConfigError, when a sample alone has too many rows.
    """
    batches: list[Batch] = []
    chosen: list[int] = []
    rows = 0
    for index, sample in enumerate(samples):
        if not any(sample.weights[1:]):
            continue
        needed = len(sample.tokens) - 1
        if needed > max_tokens:
            raise ConfigError(
                f"max_tokens = {max_tokens}: a sample of {len(sample.tokens)} tokens does not fit into one "
                f"micro-batch; raise it to {needed} or more, or shorten the samples"
            )
        if rows + needed > max_tokens:
            batches.append(_batch(samples, chosen, ops))
            chosen, rows = [], 0
        chosen.append(index)
        rows += needed
    if chosen:
        batches.append(_batch(samples, chosen, ops))
    return batches


def _batch(samples: Sequence[Sample], chosen: Sequence[int], ops: Ops) -> Batch:
    packed = [samples[i] for i in chosen]
    lengths = [len(sample.tokens) - 1 for sample in packed]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    targets = [_targets(sample) for sample in packed]

    def floats(values: Iterator[float]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.float32, device=ops.device)

    def integers(values: Iterator[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(list(values), dtype=dtype, device=ops.device)

    each = list(zip(chosen, packed, starts, targets, strict=True))
    sampler_J = None
    if all(sample.logprobs is not None for sample in packed):
        sampler_J = floats(
            s.logprobs[i] for s, t in zip(packed, targets, strict=True) if s.logprobs for i in t
        )
    return Batch(
        attend=PackedAttend(lengths, ops),
        tokens_T=integers((token for s in packed for token in s.tokens[:-1]), torch.int32),
        next_tokens_T=integers((token for s in packed for token in s.tokens[1:]), torch.int32),
        samples_T=integers(
            index for index, length in zip(chosen, lengths, strict=True) for _ in range(length)
        ),
        rows_J=integers(start + i - 1 for _, _, start, t in each for i in t),
        targets_J=integers((s.tokens[i] for _, s, _, t in each for i in t), torch.int32),
        samples_J=integers(index for index, _, _, t in each for _ in t),
        weights_J=floats(s.weights[i] for _, s, _, t in each for i in t),
        advantages_J=floats(s.advantage for _, s, _, t in each for _ in t),
        sampler_logprobs_J=sampler_J,
        old_logprobs_J=sampler_J,
    )


def _targets(sample: Sample) -> list[int]:
    """Indices of the tokens that count."""
    return [i for i, weight in enumerate(sample.weights) if i and weight]
