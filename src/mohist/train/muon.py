"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for matrices and stacks of them.

PyTorch's own takes single matrices, in bfloat16; this one takes all slices of a stack (experts, heads) in one
product, in float32. Shape suffixes: S slices, N rows, K columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalized"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration: steep at zero, and near 1 from there on."""
_ITERATIONS = 5
_EPS = 1e-7
"""Least norm that a slice is divided by."""


class Muon(torch.optim.Optimizer):
    """Momentum whose every slice is made orthogonal before it is taken from the weights.

        m = mean of gradients, decaying by `momentum`;  u = g + momentum * (m - g)
        w = w * (1 - lr * weight_decay) - lr * 0.2 * sqrt(max(N, K)) * orthogonalized(u)

    The factor 0.2 gives a step the size of AdamW's (arXiv 2502.16982, equation 4): one rate suits both.
    """

    def __init__(
        self, parameters: Iterable[Tensor], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        """For parameters [N, K] or [S, N, K]."""
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        """Change every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, parameter.grad, group)

    def _change(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = orthogonalized(gradient.lerp(mean, group["momentum"]))
        size = 0.2 * max(parameter.shape[-2:]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * size)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Each [N, K] slice with its singular values drawn near 1 (about 0.7 to 1.2), its directions kept."""
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
