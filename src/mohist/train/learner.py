"""A decoder that learns, by Tinker's verbs: `forward_backward`, `optim_step`, and state in and out.

Shape suffixes: T packed rows, D hidden, J targets, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.model.decoder import Decoder
from mohist.model.save import save_decoder
from mohist.train.batch import Batch
from mohist.train.losses import Loss
from mohist.train.meters import Meters
from mohist.train.optim import OptimConfig, Optimizer, one_thread
from mohist.train.ranks import ALONE, Ranks

__all__ = ["Learner", "score"]


class Learner:
    """The one decoder, whose ops are `TrainingOps`, with its gradients and its optimiser.

    Gradients of several `forward_backward` calls add up until `optim_step`. What is reported is a mean over
    the targets of one call, taken from exact sums: it does not depend on how they were split into batches.
    """

    def __init__(
        self, decoder: Decoder, config: OptimConfig, *, total_steps: int, ranks: Ranks = ALONE
    ) -> None:
        if not isinstance(decoder.ops, TrainingOps):
            raise ConfigError("the decoder's ops record no gradients: build it with TrainingOps(ops)")
        self.decoder, self.ranks = decoder, ranks
        self.optimizer = Optimizer(decoder, config, total_steps=total_steps)

    @property
    def step_count(self) -> int:
        """Optimiser steps taken."""
        return self.optimizer.step_count

    def forward_backward(self, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
        """Add the gradients of the loss over `batches`.

        Returns "loss" (the weighted sum), "logprob" (the mean), what the loss reports, and, for sampled
        tokens, "mismatch": the largest difference to the sampler's logprobs. Before the first `optim_step`
        on samples of these weights that is 0.0 where trainer and sampler are exact; after it, drift.
        """
        meters = Meters()
        for batch in self.ranks.mine(batches):
            self._accumulate(batch, loss, meters)
        return meters.summary(self.ranks)

    def optim_step(self) -> dict[str, float]:
        """Change the weights by the gradients, and clear those. Returns "lr" and "grad_norm".

        Raises RunError, with nothing changed, when there is no gradient or one is not finite.
        """
        self._add_ranks()
        return self.optimizer.step()

    def evaluate(self, batches: Sequence[Batch], loss: Loss) -> dict[str, float]:
        """What `forward_backward` returns, without gradients."""
        meters = Meters()
        with torch.no_grad():
            for batch in self.ranks.mine(batches):
                logprobs_J = score(self.decoder, batch)
                losses_J, values = loss(logprobs_J, batch)
                meters.add(batch, losses_J, logprobs_J, values)
        return meters.summary(self.ranks)

    def save_model(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder of float32 tensors."""
        save_decoder(self.decoder, folder, format="f32")

    def state(self) -> dict[str, Tensor]:
        """Everything beside the weights and `step_count` that training goes on from."""
        return self.optimizer.state()

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Go on from `state` after `step_count` steps. Raises RunError, when it does not fit."""
        self.optimizer.load_state(tensors, step_count)

    def _add_ranks(self) -> None:
        """Give every rank the sum of all gradients; a rank may have had no batch, and so no gradient."""
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

    def _accumulate(self, batch: Batch, loss: Loss, meters: Meters) -> None:
        logprobs_J = score(self.decoder, batch)
        leaf_J = logprobs_J.detach().requires_grad_()
        with one_thread():
            losses_J, values = loss(leaf_J, batch)
            (gradient_J,) = torch.autograd.grad(losses_J, leaf_J, batch.weights_J)
        meters.add(batch, losses_J.detach(), leaf_J.detach(), values)
        logprobs_J.backward(gradient_J)


def score(decoder: Decoder, batch: Batch) -> Tensor:
    """Log-probability [J] of every target."""
    hidden_TD = decoder(batch.tokens_T, batch.attend.positions_T, batch.attend)
    return decoder.logprobs(hidden_TD.index_select(0, batch.rows_J), batch.targets_J)
