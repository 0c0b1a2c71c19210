"""What DeepSeek-V3 trains beside the next token: balanced experts, and the token after the next.

arXiv 2412.19437, sections 2.1.2 and 2.2. Shape suffixes: T packed rows, E experts, K chosen experts,
S samples of a batch, J targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mohist.errors import ConfigError
from mohist.kernels.ops import RouteSpec
from mohist.model.decoder import Decoder
from mohist.model.feedforward import MixtureOfExperts, Routing
from mohist.train.batch import Batch

__all__ = ["Draft", "ExtrasConfig", "Routers", "balance", "drafts"]


@dataclass(frozen=True, kw_only=True)
class ExtrasConfig:
    """For models with routed experts or MTP modules; others have nothing that these would change."""

    bias_rate: float = 0.001
    """A step, the selection bias of an overloaded expert falls by this, that of an underloaded one rises."""
    balance: float = 1e-4
    """Weight of the sequence-wise balance loss; 0 for none."""
    mtp: float = 0.1
    """Weight of the loss of multi-token prediction, all modules together; 0 leaves the modules untrained."""

    def __post_init__(self) -> None:
        for name in ("bias_rate", "balance", "mtp"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 0")


class Routers:
    """The routers of a decoder: what they decided since the last `rebalance`."""

    def __init__(self, decoder: Decoder) -> None:
        self._layers = [module for module in decoder.modules() if isinstance(module, MixtureOfExperts)]
        for layer in self._layers:
            layer.routings = []
        self.loads = [torch.zeros(layer.router.shape[0], dtype=torch.int64) for layer in self._layers]
        """Rows that each layer's experts got, [E] a layer."""

    def take(self) -> list[tuple[RouteSpec, Routing]]:
        """What the routers decided in the forward pass before, counted as load."""
        taken: list[tuple[RouteSpec, Routing]] = []
        for layer, load in zip(self._layers, self.loads, strict=True):
            for routing in layer.routings or ():
                load += torch.bincount(routing.experts_TK.flatten().cpu(), minlength=len(load))
                taken.append((layer.spec, routing))
        self.forget()
        return taken

    def forget(self) -> None:
        """Drop what was computed again in a backward pass: it was counted already."""
        for layer in self._layers:
            layer.routings = []

    def rebalance(self, rate: float) -> dict[str, float]:
        """Move the selection biases by `rate` towards equal loads, and count anew.

        Returns "expert_overload": how much the fullest expert of any layer was over the mean load, relative
        to it (MaxVio of arXiv 2408.15664); nothing without routed experts.
        """
        overloads = []
        for layer, load in zip(self._layers, self.loads, strict=True):
            if not load.any():  # an MTP module that is not trained
                continue
            mean = load.sum() / len(load)
            overloads.append(float(load.max() / mean - 1))
            if layer.router_bias is not None:
                bias_E = layer.router_bias.value
                bias_E.add_((mean - load).sign().to(bias_E), alpha=rate)
            load.zero_()
        return {"expert_overload": max(overloads)} if overloads else {}


def balance(logits_TE: Tensor, experts_TK: Tensor, spec: RouteSpec, sample_T: Tensor) -> Tensor:
    """The sequence-wise balance loss of every sample, [S] (equations 17 to 20), before its weight.

    For a sample of T' rows: sum over experts of f times P, with f = E / (K T') times the rows that chose the
    expert, and P the mean of the expert's share in the scores. `sample_T` (int64) numbers the samples from 0.
    """
    scores_TE = logits_TE.sigmoid() if spec.scoring == "sigmoid" else logits_TE.softmax(1)
    shares_TE = scores_TE / scores_TE.sum(1, keepdim=True)
    num_samples, num_experts = int(sample_T[-1]) + 1, logits_TE.shape[1]
    chosen_TE = torch.zeros_like(logits_TE).scatter_(1, experts_TK.long(), 1.0)
    zeros_SE = logits_TE.new_zeros(num_samples, num_experts)
    rows_S1 = torch.bincount(sample_T, minlength=num_samples)[:, None]
    fraction_SE = zeros_SE.index_add(0, sample_T, chosen_TE) * num_experts / (spec.top_k * rows_S1)
    mean_SE = zeros_SE.index_add(0, sample_T, shares_TE) / rows_S1
    return (fraction_SE * mean_SE).sum(1)


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What one MTP module reads and predicts."""

    next_tokens_T: Tensor
    """int32: the tokens that the module is shown, one for each row."""
    rows_J: Tensor
    """int64: the rows whose prediction counts."""
    targets_J: Tensor
    """int32: what they should predict."""
    weights_J: Tensor
    """float32: how much that counts, as for the next token's loss."""


def drafts(batch: Batch, depth: int) -> Iterator[Draft]:
    """For each of `depth` MTP modules in turn. Module k of row i is shown token i+k and predicts token i+k+1.

    Where a sample ends before, the prediction does not count, nor does what the row is shown. Modules for
    which nothing is left are left out.
    """
    num_rows = batch.num_tokens
    weights_T = batch.weights_J.new_zeros(num_rows)
    weights_T[batch.rows_J] = batch.weights_J
    row_T = torch.arange(num_rows, device=weights_T.device)
    for shift in range(1, depth + 1):
        ahead_T = (row_T + shift).clamp(max=num_rows - 1)
        inside_T = (batch.samples_T[ahead_T] == batch.samples_T) & (row_T + shift < num_rows)
        counts_T = inside_T & (weights_T[ahead_T] != 0)
        shown_T = (row_T + shift - 1).clamp(max=num_rows - 1)
        same_T = batch.samples_T[shown_T] == batch.samples_T
        rows_J = counts_T.nonzero()[:, 0]
        if not len(rows_J):
            return
        yield Draft(
            next_tokens_T=torch.where(same_T, batch.next_tokens_T[shown_T], batch.next_tokens_T),
            rows_J=rows_J,
            targets_J=batch.next_tokens_T[ahead_T[rows_J]],
            weights_J=weights_T[ahead_T[rows_J]],
        )
