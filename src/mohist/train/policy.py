"""The model in training as GRPO sees it: one set of weights that samples and learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mohist.train.batch import Batch
from mohist.train.learner import Learner, score
from mohist.train.lora import has_lora
from mohist.train.losses import Loss
from mohist.train.models import load_model
from mohist.train.reference import Reference
from mohist.train.run import Run
from mohist.train.sampler import Sampler

if TYPE_CHECKING:
    from mohist.train.grpo import GrpoConfig

__all__ = ["Policy"]


class Policy:
    """Model, learner, sampler and reference of one run, and what its checkpoints hold."""

    def __init__(self, config: GrpoConfig, run: Run) -> None:
        """Start from `config.model`, or go on from the run's checkpoint."""
        self._config, self._run = config, run
        self.model = load_model(
            config.model, threads=config.threads, lora=config.lora, resumed=run.checkpoint, seed=config.seed
        )
        self.model.decoder.recompute = config.recompute
        self.learner = Learner(
            self.model.decoder,
            config.optim,
            total_steps=config.steps * config.inner_epochs,
            extras=config.extras,
            sampling=config.sampling.params(),
        )
        self.reference = Reference(self.model.decoder, self.learner.sampling) if config.policy.kl else None
        self.loop: dict[str, Any] = {}
        """What `save` was given, of the checkpoint that the run goes on from."""
        if run.checkpoint is not None:
            tensors, state = run.restore()
            self.loop = state["loop"]
            if self.reference is not None:
                self.reference.load_state(tensors)
            mine = {name: tensor for name, tensor in tensors.items() if not name.startswith("reference/")}
            self.learner.load_state(mine, state["updates"])
        self.sampler = Sampler(self.model, config.sampling)

    def prepared(self, batches: Sequence[Batch]) -> list[Batch]:
        """Batches with the logprobs that the loss compares with, as far as the sampler's are not those.

        Where sampler and trainer differ, ratios refer to the trainer's policy before the step, and the loss
        corrects for the sampler's (Hilton et al., arXiv 2110.00641, call them proximal and behaviour policy).
        """
        if not self.sampler.exact:
            with torch.no_grad():
                batches = [
                    dataclasses.replace(
                        batch, old_logprobs_J=score(self.model.decoder, batch, self.learner.sampling)
                    )
                    for batch in batches
                ]
        return list(batches) if self.reference is None else self.reference.scored(batches)

    def learn(self, batches: Sequence[Batch], loss: Loss, *, epochs: int) -> dict[str, float]:
        """Take `epochs` optimiser steps on the answers of one step, none if they teach nothing.

        What is returned describes the first epoch, in which the policy is still the one that sampled; but
        "clipped", "lr" and "grad_norm" the last.
        """
        metrics: dict[str, float] = {}
        for _ in range(epochs if batches else 0):
            found = self.learner.forward_backward(batches, loss)
            if not metrics:
                exact = self.sampler.exact
                assert not exact or found["mismatch"] == 0.0, (
                    f"trainer and sampler differ by {found['mismatch']}, though both are exact"
                )
            metrics = found | metrics | {"clipped": found["clipped"]} | self.learner.optim_step()
        self.sampler.update()
        return metrics

    @property
    def num_passes(self) -> float:
        """What a step's rows are computed for, in forward passes; a backward pass is two."""
        before = int(not self.sampler.exact) + int(self.reference is not None)
        return before + self._config.inner_epochs * (3 + self._config.recompute)

    def refresh_reference(self) -> None:
        """Let the KL term hold on to the policy as it is now."""
        assert self.reference is not None
        self.reference.refresh()

    def save(self, step: int, loop: Mapping[str, Any]) -> None:
        """Save the checkpoint after `step` steps."""
        tensors = self.learner.state() | (self.reference.state() if self.reference else {})
        self._run.save(step, self.model, tensors, {"loop": dict(loop), "updates": self.learner.step_count})

    def finish(self, step: int) -> Path:
        """The folder of the run's result: the last checkpoint, or a model with LoRA and averaging applied."""
        if not (has_lora(self.model.decoder) or self.learner.optimizer.average):
            return self._run.checkpoint_at(step)
        with self.learner.averaged():
            return self._run.export(self.model.save_merged)
