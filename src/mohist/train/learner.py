"""A decoder that learns, by Tinker's verbs: `forward_backward`, `optim_step`, and state in and out.

Shape suffixes: T packed rows, D hidden, J targets, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.sampling import TokenScores
from mohist.kernels.threads import one_thread
from mohist.model.decoder import Decoder
from mohist.train.batch import Batch, pack
from mohist.train.extras import ExtrasConfig, Routers, balance, drafts
from mohist.train.losses import Loss
from mohist.train.meters import Meters
from mohist.train.optim import OptimConfig, Optimizer
from mohist.train.ranks import ALONE, Ranks
from mohist.types import Sample, SamplingParams

__all__ = ["Learner", "score"]


class Learner:
    """The one decoder, whose ops are `TrainingOps`, with its gradients and its optimiser.

    Gradients of several `forward_backward` calls add up until `optim_step`. What is reported is a mean over
    the targets of one call, taken from exact sums: it does not depend on how they were split into batches.
    """

    def __init__(
        self,
        decoder: Decoder,
        config: OptimConfig,
        *,
        total_steps: int,
        extras: ExtrasConfig | None = None,
        sampling: SamplingParams | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Without `extras`, routers keep their biases and MTP modules their weights.

        Logprobs of targets are those under the distribution that `sampling` samples from.
        """
        if not isinstance(decoder.ops, TrainingOps):
            raise ConfigError("the decoder's ops record no gradients: build it with TrainingOps(ops)")
        self.decoder, self.ranks = decoder, ranks
        self.optimizer = Optimizer(decoder, config, total_steps=total_steps)
        self.extras = extras or ExtrasConfig(bias_rate=0, balance=0, mtp=0)
        self.routers = Routers(decoder)
        self.sampling = sampling

    @property
    def _needs_whole_samples(self) -> bool:
        """Whether an extra loss looks at samples row by row, so that no row can belong to two."""
        drafting = self.extras.mtp and self.decoder.config.mtp_layers
        return bool(drafting or (self.extras.balance and self.routers.loads))

    @property
    def step_count(self) -> int:
        """Optimiser steps taken."""
        return self.optimizer.step_count

    def pack(self, samples: Sequence[Sample], *, max_tokens: int) -> list[Batch]:
        """Micro-batches for `forward_backward` (see `mohist.train.batch.pack`)."""
        share = not self._needs_whole_samples
        return pack(samples, max_tokens=max_tokens, ops=self.decoder.ops, share=share)

    def forward_backward(self, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
        """Add the gradients of the loss over `batches`.

        Returns "loss" (the weighted sum; likewise "balance_loss" and "mtp_loss" where the extras ask for
        them), "logprob" and "target_entropy" (means over targets, in nats), what the loss reports, counts,
        and, for sampled tokens, "mismatch": the largest difference to the sampler's logprobs. Before the
        first `optim_step` on samples of these weights that is 0.0 where trainer and sampler are exact; after
        it, drift.
        """
        meters = Meters()
        for batch in self.ranks.mine(batches):
            self._accumulate(batch, loss, meters)
        return meters.summary(self.ranks)

    def optim_step(self) -> dict[str, float]:
        """Change the weights by the gradients, and clear those.

        Returns "lr", "grad_norm" and, with routed experts, "expert_overload" (see `Routers.rebalance`).
        Raises RunError, with nothing changed, when there is no gradient or one is not finite.
        """
        self._add_ranks()
        metrics = self.optimizer.step()
        with torch.no_grad():
            return metrics | self.routers.rebalance(self.extras.bias_rate)

    def evaluate(self, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
        """What `forward_backward` returns, without gradients and without the extras."""
        meters = Meters()
        with torch.no_grad():
            for batch in self.ranks.mine(batches):
                scores = _scores(self.decoder, _hidden(self.decoder, batch), batch, self.sampling)
                losses_J, values = loss(scores.logprobs_T, batch)
                values = {**values, "target_entropy": scores.entropies_T}
                meters.add(batch, losses_J, scores.logprobs_T, values)
        return meters.summary(self.ranks)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the weights are their exponential average, where the optimiser keeps one."""
        return self.optimizer.averaged()

    def state(self) -> dict[str, Tensor]:
        """Everything beside the weights and `step_count` that training goes on from."""
        return self.optimizer.state()

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Go on from `state` after `step_count` steps. Raises RunError, when it does not fit."""
        self.optimizer.load_state(tensors, step_count)

    def _add_ranks(self) -> None:
        """Give every rank the sum of all gradients and loads; a rank without a batch has no gradient."""
        if self.ranks.size == 1:
            return
        parameters = self.optimizer.parameters
        mine = [name for name, parameter in parameters.items() if parameter.grad is not None]
        theirs = {name for names in self.ranks.gather(mine) for name in names}
        for name, parameter in parameters.items():
            if name in theirs:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                self.ranks.add(parameter.grad)
        for load in self.routers.loads:
            self.ranks.add(load)

    def _accumulate(self, batch: Batch, loss: Loss, meters: Meters) -> None:
        """Forward, then the gradients of small tensors by hand, then all the way back from those."""
        assert not (batch.is_shared and self._needs_whole_samples), "pack with share=False"
        hidden_TD = _hidden(self.decoder, batch)
        logprobs_J, entropies_J = _scores(self.decoder, hidden_TD, batch, self.sampling)
        leaf_J = logprobs_J.detach().requires_grad_()
        with one_thread():
            losses_J, values = loss(leaf_J, batch)
            (gradient_J,) = torch.autograd.grad(losses_J, leaf_J, batch.weights_J)
        meters.add(batch, losses_J.detach(), leaf_J.detach(), {**values, "target_entropy": entropies_J})
        roots, gradients = [logprobs_J], [gradient_J]
        for root, gradient in (*self._drafts(batch, hidden_TD, meters), *self._balance(batch, meters)):
            roots.append(root)
            gradients.append(gradient)
        with one_thread():  # what PyTorch does of it; the kernels have threads of their own
            torch.autograd.backward(roots, gradients)
        self.routers.forget()

    def _balance(self, batch: Batch, meters: Meters) -> Iterator[tuple[Tensor, Tensor]]:
        """Router logits with their gradients. A sample counts by the weights of its targets."""
        taken = self.routers.take()
        if not (self.extras.balance and taken):
            return
        with one_thread():
            _, sample_T = torch.unique_consecutive(batch.samples_T, return_inverse=True)
            weights_S = batch.weights_J.new_zeros(int(sample_T[-1]) + 1)
            weights_J = batch.weights_J * self.extras.balance
            weights_S.index_add_(0, sample_T[batch.rows_J], weights_J)
        for spec, routing in taken:
            leaf_TE = routing.logits_TE.detach().requires_grad_()
            with one_thread():
                losses_S = balance(leaf_TE, routing.experts_TK, spec, sample_T)
                (gradient_TE,) = torch.autograd.grad(losses_S, leaf_TE, weights_S)
            meters.add_sum("balance_loss", losses_S.detach(), weights_S)
            yield routing.logits_TE, gradient_TE

    def _drafts(self, batch: Batch, hidden_TD: Tensor, meters: Meters) -> Iterator[tuple[Tensor, Tensor]]:
        """Log-probabilities that MTP modules predict, with their gradients."""
        depth = self.decoder.config.mtp_layers
        if not (self.extras.mtp and depth):
            return
        for k, draft in enumerate(drafts(batch, depth)):
            positions_T = batch.attend.positions_T
            hidden_TD = self.decoder.draft(hidden_TD, draft.next_tokens_T, positions_T, batch.attend, depth=k)
            rows_JD = hidden_TD.index_select(0, draft.rows_J)
            logprobs_J = self.decoder.logprobs(rows_JD, draft.targets_J)
            weights_J = draft.weights_J * (self.extras.mtp / depth)
            meters.add_sum("mtp_loss", -logprobs_J.detach(), weights_J)
            yield logprobs_J, -weights_J


def score(decoder: Decoder, batch: Batch, sampling: SamplingParams | None = None) -> Tensor:
    """Log-probability [J] of every target, under the distribution that `sampling` samples from."""
    return _scores(decoder, _hidden(decoder, batch), batch, sampling).logprobs_T


def _hidden(decoder: Decoder, batch: Batch) -> Tensor:
    return decoder(batch.tokens_T, batch.attend.positions_T, batch.attend)


def _scores(
    decoder: Decoder, hidden_TD: Tensor, batch: Batch, sampling: SamplingParams | None
) -> TokenScores:
    return decoder.scores(hidden_TD.index_select(0, batch.rows_J), batch.targets_J, sampling)
