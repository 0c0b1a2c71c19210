"""The policy that a KL term holds on to: the trained tensors as they were, scored by the same decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mohist.model.decoder import Decoder
from mohist.train.batch import Batch
from mohist.train.learner import score
from mohist.types import SamplingParams

__all__ = ["Reference"]


class Reference:
    """A copy of everything in a decoder that training changes. Frozen tensors are not copied."""

    def __init__(self, decoder: Decoder, sampling: SamplingParams | None = None) -> None:
        self._decoder, self._sampling = decoder, sampling
        self._changing = {
            name: parameter
            for name, parameter in decoder.named_parameters()
            if parameter.requires_grad or name.endswith("router_bias.value")
        }
        self._kept = {name: parameter.detach().clone() for name, parameter in self._changing.items()}

    def refresh(self) -> None:
        """Hold on to the weights as they are now."""
        for name, parameter in self._changing.items():
            self._kept[name].copy_(parameter.detach())

    def scored(self, batches: Sequence[Batch]) -> list[Batch]:
        """The same batches, with the reference's logprobs.

        The weights change and come back, so an engine on them must be told before it samples again.
        """
        with torch.no_grad(), self._in_place():
            return [
                dataclasses.replace(batch, reference_logprobs_J=score(self._decoder, batch, self._sampling))
                for batch in batches
            ]

    def state(self) -> dict[str, Tensor]:
        """What `load_state` takes, by names that no optimiser uses."""
        return {f"reference/{name}": tensor for name, tensor in self._kept.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Hold on to what `state` gave."""
        for name, tensor in self._kept.items():
            tensor.copy_(tensors[f"reference/{name}"])

    @contextmanager
    def _in_place(self) -> Generator[None]:
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._changing.items():
            kept = self._kept[name]
            now = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(now)
