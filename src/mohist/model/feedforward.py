"""Feed-forwards: dense SwiGLU, and routed experts beside a shared one.

Shape suffixes: T packed rows, D hidden, F width, E experts, K chosen experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mohist.kernels.ops import Ops, RouteSpec
from mohist.kernels.weight import Weight
from mohist.model.config import DenseConfig, MoeConfig
from mohist.model.tensors import FusedVector, Matrix, Vector

__all__ = ["Experts", "MixtureOfExperts", "Routing", "SwiGlu", "route_spec"]


class SwiGlu(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, mlp: DenseConfig, *, hidden_size: int, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.gate = Matrix(mlp.width, hidden_size)
        self.up = Matrix(mlp.width, hidden_size)
        self.down = Matrix(hidden_size, mlp.width)
        self.gate_up_bias: FusedVector | None = None
        if mlp.bias:
            self.gate_bias, self.up_bias = Vector(mlp.width), Vector(mlp.width)
            self.gate_up_bias = FusedVector(self.gate_bias, self.up_bias)
        self.down_bias = Vector(hidden_size) if mlp.bias else None

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
        """residual + feed-forward(x): [T, D]."""
        bias = self.gate_up_bias.value() if self.gate_up_bias else None
        gate_up_T2F = self.ops.linear(x_TD, (self.gate.weight(), self.up.weight()), bias=bias)
        hidden_TF = self.ops.swiglu(gate_up_T2F)
        down_bias = self.down_bias.value if self.down_bias else None
        return self.ops.linear(hidden_TF, (self.down.weight(),), bias=down_bias, residual=residual_TD)


class Routing(NamedTuple):
    """What a router decided in one forward pass."""

    logits_TE: Tensor
    experts_TK: Tensor


class MixtureOfExperts(nn.Module):
    """Each row takes its best `top_k` experts and, if there is one, the shared expert."""

    def __init__(self, mlp: MoeConfig, *, hidden_size: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.spec = ops, route_spec(mlp)
        self.router = Matrix(mlp.num_experts, hidden_size)
        # Trained by counting loads, not by gradients.
        self.router_bias = Vector(mlp.num_experts, trainable=False) if mlp.selection_bias else None
        self.experts = Experts(mlp.num_experts, mlp.width, hidden_size)
        self.shared: SwiGlu | None = None
        if mlp.shared_width:
            self.shared = SwiGlu(DenseConfig(width=mlp.shared_width), hidden_size=hidden_size, ops=ops)
        self.routings: list[Routing] | None = None
        """Where training balances experts: a list that every forward pass with gradients adds to."""

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
        """residual + shared(x) + routed(x): [T, D]."""
        bias_E = self.router_bias.value if self.router_bias else None
        logits_TE = self.ops.linear(x_TD, (self.router.weight(),))
        experts_TK, weights_TK = self.ops.route(logits_TE, self.spec, bias_E=bias_E)
        if self.routings is not None and torch.is_grad_enabled():
            self.routings.append(Routing(logits_TE, experts_TK))
        if self.shared is not None:
            residual_TD = self.shared(x_TD, residual_TD)
        matrices = self.experts.weights()
        return self.ops.moe(x_TD, experts_TK, weights_TK, *matrices, residual=residual_TD)


class Experts(nn.Module):
    """The matrices of the routed experts."""

    def __init__(self, num_experts: int, width: int, hidden_size: int) -> None:
        super().__init__()
        self.gate = Matrix(width, hidden_size, num_groups=num_experts)
        self.up = Matrix(width, hidden_size, num_groups=num_experts)
        self.down = Matrix(hidden_size, width, num_groups=num_experts)

    def weights(self) -> tuple[tuple[Weight, ...], tuple[Weight, ...], tuple[Weight, ...]]:
        """Gates, ups and downs, one of each per expert."""
        return self.gate.weights(), self.up.weights(), self.down.weights()


def route_spec(mlp: MoeConfig) -> RouteSpec:
    """The kernels' view of a router."""
    return RouteSpec(
        top_k=mlp.top_k,
        scoring=mlp.scoring,
        num_groups=mlp.num_groups,
        top_groups=mlp.top_groups,
        group_score=mlp.group_score,
        renormalize=mlp.renormalize,
        scale=mlp.scale,
    )
