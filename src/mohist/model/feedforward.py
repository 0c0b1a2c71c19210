"""Feed-forwards: dense and gated, and routed experts beside a shared one.

Shape suffixes: T packed rows, D hidden, F width, E experts, K chosen experts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mohist.kernels.ops import ExpertBiases, ExpertWeights, Ops, RouteSpec
from mohist.model.config import DenseConfig, MoeConfig
from mohist.model.tensors import FusedVector, Matrix, Vector

__all__ = ["Experts", "Glu", "MixtureOfExperts", "Routing", "route_spec"]


class Glu(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, mlp: DenseConfig, *, hidden_size: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.activation = ops, mlp.activation
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
        hidden_TF = self.ops.glu(gate_up_T2F, self.activation)
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
        self.logit_bias = Vector(mlp.num_experts) if mlp.biases else None
        self.experts = Experts(mlp, hidden_size)
        self.shared: Glu | None = None
        if mlp.shared_width:
            shared = DenseConfig(width=mlp.shared_width, activation=mlp.activation)
            self.shared = Glu(shared, hidden_size=hidden_size, ops=ops)
        self.routings: list[Routing] | None = None
        """Where training balances experts: a list that every forward pass with gradients adds to."""

    def forward(self, x_TD: Tensor, residual_TD: Tensor | None) -> Tensor:
        """residual + shared(x) + routed(x): [T, D]."""
        bias_E = self.router_bias.value if self.router_bias else None
        logit_bias_E = self.logit_bias.value if self.logit_bias else None
        logits_TE = self.ops.linear(x_TD, (self.router.weight(),), bias=logit_bias_E)
        experts_TK, weights_TK = self.ops.route(logits_TE, self.spec, bias_E=bias_E)
        if self.routings is not None and torch.is_grad_enabled():
            self.routings.append(Routing(logits_TE, experts_TK))
        if self.shared is not None:
            residual_TD = self.shared(x_TD, residual_TD)
        return self.ops.moe(x_TD, experts_TK, weights_TK, self.experts.weights(), residual=residual_TD)


class Experts(nn.Module):
    """The matrices of the routed experts, and their biases if they have any."""

    def __init__(self, mlp: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        count, width = mlp.num_experts, mlp.width
        self.activation, self.has_biases = mlp.activation, mlp.biases
        self.gate = Matrix(width, hidden_size, num_groups=count)
        self.up = Matrix(width, hidden_size, num_groups=count)
        self.down = Matrix(hidden_size, width, num_groups=count)
        if mlp.biases:
            self.gate_bias, self.up_bias = Vector(count, width), Vector(count, width)
            self.down_bias = Vector(count, hidden_size)

    def weights(self) -> ExpertWeights:
        """As the kernels take them."""
        biases = None
        if self.has_biases:
            biases = ExpertBiases(self.gate_bias.value, self.up_bias.value, self.down_bias.value)
        matrices = self.gate.weights(), self.up.weights(), self.down.weights()
        return ExpertWeights(*matrices, biases, self.activation)


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
