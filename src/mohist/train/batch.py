"""Samples packed into rows: never padded, and no row sees another sample's but a beginning that both have.

Shape suffixes: T packed rows, J targets (tokens that the loss may count), S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
    """int64: index of each row's sample in what `pack` was given; of the first one that shares the row."""
    is_shared: bool
    """Whether samples have rows in common; then what comes after such a row differs among them."""
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


def pack(samples: Sequence[Sample], *, max_tokens: int, ops: Ops, share: bool = True) -> list[Batch]:
    """Micro-batches of at most `max_tokens` rows, in the order of `samples`, each sample whole.

    Samples of a micro-batch with equal `tokens[:num_shared]` share those rows, unless `share` is False.
    Samples without a target are left out. Raises ConfigError, when a sample alone has too many rows.
    """
    batches: list[Batch] = []
    rows = _Rows(share)
    for index, sample in enumerate(samples):
        if not any(sample.weights[1:]):
            continue
        if rows.count + rows.needed(sample) > max_tokens and rows.count:
            batches.append(rows.batch(ops))
            rows = _Rows(share)
        if rows.needed(sample) > max_tokens:
            raise ConfigError(
                f"max_tokens = {max_tokens}: a sample of {len(sample.tokens)} tokens does not fit into one "
                f"micro-batch; raise it to {len(sample.tokens) - 1} or more, or shorten the samples"
            )
        rows.add(index, sample)
    if rows.count:
        batches.append(rows.batch(ops))
    return batches


class _Rows:
    """The rows of one micro-batch, as sequences of which some continue a beginning that they share."""

    def __init__(self, share: bool) -> None:
        self.count = 0
        self._share = share
        self._beginnings: dict[tuple[int, ...], tuple[int, int]] = {}
        """Tokens of a shared beginning -> (its sequence, its first row)."""
        self._lengths: list[int] = []
        self._continues: list[int | None] = []
        self._tokens: list[int] = []
        self._next_tokens: list[int] = []
        self._samples: list[int] = []
        self._placed: list[tuple[int, Sample, list[int], list[int]]] = []
        """(index, sample, positions of its targets, their rows)."""

    def needed(self, sample: Sample) -> int:
        """Rows that `add` would add."""
        num_shared = self._num_shared(sample)
        known = num_shared and sample.tokens[:num_shared] in self._beginnings
        return len(sample.tokens) - 1 - (num_shared if known else 0)

    def add(self, index: int, sample: Sample) -> None:
        """Place a sample."""
        num_shared, parent, start = self._num_shared(sample), None, 0
        if num_shared:
            beginning = sample.tokens[:num_shared]
            if beginning not in self._beginnings:
                first = self._add_sequence(index, sample, 0, num_shared, None)
                self._beginnings[beginning] = len(self._lengths) - 1, first
            parent, start = self._beginnings[beginning]
        own = self._add_sequence(index, sample, num_shared, len(sample.tokens) - 1, parent)
        targets = [i for i, weight in enumerate(sample.weights) if i and weight]
        rows = [start + i - 1 if i <= num_shared else own + i - 1 - num_shared for i in targets]
        self._placed.append((index, sample, targets, rows))

    def batch(self, ops: Ops) -> Batch:
        """Everything as tensors."""
        placed = self._placed

        def floats(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float32, device=ops.device)

        def integers(values: Iterable[int], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=ops.device)

        sampler_J = None
        if all(sample.logprobs is not None for _, sample, _, _ in placed):
            sampler_J = floats(s.logprobs[i] for _, s, targets, _ in placed if s.logprobs for i in targets)
        return Batch(
            attend=PackedAttend(self._lengths, ops, continues=self._continues),
            tokens_T=integers(self._tokens, torch.int32),
            next_tokens_T=integers(self._next_tokens, torch.int32),
            samples_T=integers(self._samples),
            is_shared=any(parent is not None for parent in self._continues),
            rows_J=integers(row for _, _, _, rows in placed for row in rows),
            targets_J=integers((s.tokens[i] for _, s, targets, _ in placed for i in targets), torch.int32),
            samples_J=integers(index for index, _, targets, _ in placed for _ in targets),
            weights_J=floats(s.weights[i] for _, s, targets, _ in placed for i in targets),
            advantages_J=floats(s.advantage for _, s, targets, _ in placed for _ in targets),
            sampler_logprobs_J=sampler_J,
            old_logprobs_J=sampler_J,
        )

    def _num_shared(self, sample: Sample) -> int:
        return min(sample.num_shared, len(sample.tokens) - 1) if self._share else 0

    def _add_sequence(self, index: int, sample: Sample, start: int, end: int, parent: int | None) -> int:
        """Rows for tokens `start` to `end` of a sample; the first of them."""
        first = self.count
        self._lengths.append(end - start)
        self._continues.append(parent)
        self._tokens += sample.tokens[start:end]
        self._next_tokens += sample.tokens[start + 1 : end + 1]
        self._samples += [index] * (end - start)
        self.count += end - start
        return first
