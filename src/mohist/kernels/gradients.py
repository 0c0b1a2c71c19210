"""What flows back through each op: the formulas, in PyTorch.

`Gradients` has two implementations, as `Ops` has. `TorchGradients`, here, works on any device and in
float64. `mohist.kernels.native_gradients.NativeGradients` is fast, and its results do not depend on how many
threads there are. Where a short formula exists it stands below; attention, expert weights and experts are
computed again by the PyTorch twin and differentiated there.

A d before a name means the gradient of the loss by it. A `Weight` with a source is differentiated by that,
one without is frozen. Shape suffixes: see `ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mohist.kernels.activation import SILU, Activation
from mohist.kernels.ops import (
    LANES,
    AttentionSpec,
    ExpertBiases,
    ExpertWeights,
    KvCache,
    Ops,
    RouteSpec,
    RowPlan,
    StateCache,
)
from mohist.kernels.sampling import TokenScores, score_twin
from mohist.kernels.twin import TorchOps, places, route_weights
from mohist.kernels.weight import Factors, Weight
from mohist.types import SamplingParams

__all__ = ["Gradients", "MoeGradients", "TorchGradients", "dense"]

Grad = Tensor | None


class MoeGradients(NamedTuple):
    """What `Gradients.moe` finds."""

    x_TD: Tensor
    weights_TK: Tensor
    matrices: list[Grad]
    """Of all gates, ups and downs, in one list."""
    biases: ExpertBiases | None


class Gradients(Protocol):
    """The backward pass's vocabulary: each method is named after the op that it differentiates.

    `wants` says which matrices get a gradient; the others get None.
    """

    def embed(self, dy_TD: Tensor, tokens_T: Tensor, vocab_size: int) -> Tensor:
        """Of the table: [V, D]."""
        ...

    def linear(
        self,
        dy_TN: Tensor,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        wants_x: bool,
        wants: Sequence[bool],
        add_to: Sequence[Grad] | None = None,
    ) -> tuple[Grad, list[Grad]]:
        """Of x and of the matrices, added to the gradients `add_to` in place, if there are any."""
        ...

    def factors(self, dy_TN: Tensor, x_TK: Tensor, factors: Factors, dx_TK: Grad) -> tuple[Tensor, Tensor]:
        """Of A [R, K] and B [N, R], without that of their product; that of x is added to `dx_TK` in place."""
        ...

    def bias(self, dy_TN: Tensor) -> Tensor:
        """Of the bias: [N]."""
        ...

    def linear_grouped(
        self, dy_TNM: Tensor, x_TNK: Tensor, weights: Sequence[Weight], *, wants: Sequence[bool]
    ) -> tuple[Tensor, list[Grad]]:
        """Of x and of the matrices."""
        ...

    def rms_norm(
        self, dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, shift: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Of x and of the weight."""
        ...

    def glu(self, dy_TF: Tensor, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """Of gates and ups."""
        ...

    def store(self, dcache: KvCache, rows: RowPlan, *, clear: bool) -> tuple[Tensor, Grad, KvCache]:
        """Of the rows' keys and values; then that of what was in the cache before.

        With `clear` that is a copy that is 0 at the rows, else not to be used.
        """
        ...

    def attention(
        self,
        dout_TNV: Tensor,
        q_TNH: Tensor,
        cache: KvCache,
        rows: RowPlan,
        spec: AttentionSpec,
        *,
        sinks_N: Grad = None,
        chosen_TK: Tensor | None = None,
    ) -> tuple[Tensor, KvCache, Grad]:
        """Of the queries, of the whole cache, and of the sinks if there are any."""
        ...

    def silu(self, dy_TD: Tensor, x_TD: Tensor) -> Tensor:
        """Of x."""
        ...

    def lightning(
        self,
        dout_TNV: Tensor,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of queries, keys and values; the rows hold all positions of all blocks that they touch."""
        ...

    def route(self, dweights_TK: Tensor, logits_TE: Tensor, experts_TK: Tensor, spec: RouteSpec) -> Tensor:
        """Of the logits."""
        ...

    def moe_forward(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        residual_TD: Grad,
    ) -> tuple[Tensor, Grad]:
        """What the op gives, and what `moe` wants kept."""
        ...

    def moe(
        self,
        dy_TD: Tensor,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        kept: Grad,
        *,
        wants: tuple[bool, bool, bool],
    ) -> MoeGradients:
        """Of x, of the experts' weights [T, K], of their matrices (`wants` is for each kind) and biases."""
        ...

    def logprobs_forward(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None,
        *,
        chunk: int,
    ) -> tuple[TokenScores, Grad]:
        """What the op gives, and the logits of the last rows, if they are worth keeping."""
        ...

    def logprobs(
        self, dlogprobs_T: Tensor, logits_TV: Tensor, targets_T: Tensor, params: SamplingParams | None
    ) -> Tensor:
        """Of the logits, in their place."""
        ...


class TorchGradients:
    """`Gradients` by PyTorch."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._twin = TorchOps(ops.device)

    def embed(self, dy_TD: Tensor, tokens_T: Tensor, vocab_size: int) -> Tensor:
        """See `Gradients.embed`."""
        return dy_TD.new_zeros(vocab_size, dy_TD.shape[1]).index_add_(0, tokens_T, dy_TD)

    def linear(
        self,
        dy_TN: Tensor,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        wants_x: bool,
        wants: Sequence[bool],
        add_to: Sequence[Grad] | None = None,
    ) -> tuple[Grad, list[Grad]]:
        """See `Gradients.linear`."""
        parts = dy_TN.split([w.out_features for w in weights], dim=1)
        dx_TK = None
        if wants_x:
            dx_TK = sum(part @ dense(weight) for part, weight in zip(parts, weights, strict=True))
        dmatrices = [part.T @ x_TK if wanted else None for part, wanted in zip(parts, wants, strict=True)]
        if add_to is None:
            return dx_TK, dmatrices
        for total, own in zip(add_to, dmatrices, strict=True):
            if total is not None and own is not None:
                total += own
        return dx_TK, list(add_to)

    def factors(self, dy_TN: Tensor, x_TK: Tensor, factors: Factors, dx_TK: Grad) -> tuple[Tensor, Tensor]:
        """See `Gradients.factors`."""
        dthin_TR = factors.scale * (dy_TN @ factors.b_NR)
        if dx_TK is not None:
            dx_TK += dthin_TR @ factors.a_RK
        return dthin_TR.T @ x_TK, factors.scale * (dy_TN.T @ (x_TK @ factors.a_RK.T))

    def bias(self, dy_TN: Tensor) -> Tensor:
        """See `Gradients.bias`."""
        return dy_TN.sum(0)

    def linear_grouped(
        self, dy_TNM: Tensor, x_TNK: Tensor, weights: Sequence[Weight], *, wants: Sequence[bool]
    ) -> tuple[Tensor, list[Grad]]:
        """See `Gradients.linear_grouped`."""
        dx_TNK = torch.stack([dy_TNM[:, n] @ dense(weight) for n, weight in enumerate(weights)], dim=1)
        return dx_TNK, [dy_TNM[:, n].T @ x_TNK[:, n] if w else None for n, w in enumerate(wants)]

    def rms_norm(
        self, dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, shift: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients.rms_norm`."""
        inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        unit, dunit = x * inverse, dy * (weight + shift)
        dx = inverse * (dunit - unit * (dunit * unit).mean(-1, keepdim=True))
        return dx, (dy * unit).flatten(0, -2).sum(0)

    def glu(self, dy_TF: Tensor, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """See `Gradients.glu`."""
        gate_up_T2F = _leaf(gate_up_T2F)
        with torch.enable_grad():
            y_TF = self._twin.glu(gate_up_T2F, activation)
        return _gradients(y_TF, (gate_up_T2F,), dy_TF)[0]

    def store(self, dcache: KvCache, rows: RowPlan, *, clear: bool) -> tuple[Tensor, Grad, KvCache]:
        """See `Gradients.store`."""
        block_T, slot_T = places(dcache, rows)
        key_places = (block_T, slice(None), slot_T // LANES, slice(None), slot_T % LANES)
        dk_TGH = dcache.keys[key_places]
        dv_TGV = None if dcache.values is None else dcache.values[block_T, :, slot_T]
        if clear:
            dcache = _copy(dcache)
            dcache.keys[key_places] = 0
            if dcache.values is not None:
                dcache.values[block_T, :, slot_T] = 0
        return dk_TGH, dv_TGV, dcache

    def attention(
        self,
        dout_TNV: Tensor,
        q_TNH: Tensor,
        cache: KvCache,
        rows: RowPlan,
        spec: AttentionSpec,
        *,
        sinks_N: Grad = None,
        chosen_TK: Tensor | None = None,
    ) -> tuple[Tensor, KvCache, Grad]:
        """See `Gradients.attention`."""
        q_TNH, keys = _leaf(q_TNH), _leaf(cache.keys)
        values = None if cache.values is None else _leaf(cache.values)
        sinks_N = None if sinks_N is None else _leaf(sinks_N)
        with torch.enable_grad():
            options = {"sinks_N": sinks_N, "chosen_TK": chosen_TK}
            out_TNV = self._twin.attention(q_TNH, KvCache(keys, values), rows, spec, **options)
        inputs = [tensor for tensor in (q_TNH, keys, values, sinks_N) if tensor is not None]
        found = iter(_gradients(out_TNV, inputs, dout_TNV))
        dq_TNH, dkeys = next(found), next(found)
        dvalues = None if values is None else next(found)
        return dq_TNH, KvCache(dkeys, dvalues), None if sinks_N is None else next(found)

    def silu(self, dy_TD: Tensor, x_TD: Tensor) -> Tensor:
        """See `Gradients.silu`."""
        open_TD = x_TD.sigmoid()
        return dy_TD * open_TD * (1 + x_TD * (1 - open_TD))

    def lightning(
        self,
        dout_TNV: Tensor,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Gradients.lightning`."""
        inputs = _leaf(q_TNH), _leaf(k_TNH), _leaf(v_TNV)
        fresh = StateCache(torch.zeros_like(cache.states), cache.block_size)
        with torch.enable_grad():
            out_TNV = self._twin.lightning(*inputs, fresh, rows, decays_N)
        dq_TNH, dk_TNH, dv_TNV = _gradients(out_TNV, inputs, dout_TNV)
        return dq_TNH, dk_TNH, dv_TNV

    def route(self, dweights_TK: Tensor, logits_TE: Tensor, experts_TK: Tensor, spec: RouteSpec) -> Tensor:
        """See `Gradients.route`."""
        logits_TE = _leaf(logits_TE)
        with torch.enable_grad():
            weights_TK = route_weights(logits_TE, experts_TK, spec)
        return _gradients(weights_TK, (logits_TE,), dweights_TK)[0]

    def moe_forward(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        residual_TD: Grad,
    ) -> tuple[Tensor, Grad]:
        """See `Gradients.moe_forward`."""
        return self._ops.moe(x_TD, experts_TK, weights_TK, experts, residual=residual_TD), None

    def moe(
        self,
        dy_TD: Tensor,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        kept: Grad,
        *,
        wants: tuple[bool, bool, bool],
    ) -> MoeGradients:
        """See `Gradients.moe`."""
        assert kept is None
        x_TD, weights_TK = _leaf(x_TD), _leaf(weights_TK)
        leaves = [[weight.with_source(_leaf(dense(weight))) for weight in kind] for kind in experts.matrices]
        biases = ExpertBiases(*map(_leaf, experts.biases)) if experts.biases else None
        with torch.enable_grad():
            own = ExpertWeights(*leaves, biases, experts.activation)
            y_TD = self._twin.moe(x_TD, experts_TK, weights_TK, own)
        sources = [weight.source for kind in leaves for weight in kind if weight.source is not None]
        inputs = (x_TD, weights_TK, *sources, *(biases or ()))
        dx_TD, dweights_TK, *rest = _gradients(y_TD, inputs, dy_TD)
        wanted = [want for want, kind in zip(wants, leaves, strict=True) for _ in kind]
        dmatrices: list[Grad] = [d if w else None for d, w in zip(rest, wanted, strict=False)]
        dbiases = ExpertBiases(*rest[len(sources) :]) if biases else None
        return MoeGradients(dx_TD, dweights_TK, dmatrices, dbiases)

    def logprobs_forward(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None,
        *,
        chunk: int,
    ) -> tuple[TokenScores, Grad]:
        """See `Gradients.logprobs_forward`."""
        return self._ops.logprobs(x_TD, head, targets_T, params, chunk=chunk), None

    def logprobs(
        self, dlogprobs_T: Tensor, logits_TV: Tensor, targets_T: Tensor, params: SamplingParams | None
    ) -> Tensor:
        """See `Gradients.logprobs`."""
        logits_TV = _leaf(logits_TV)
        with torch.enable_grad():
            logprobs_T = score_twin(logits_TV, targets_T, params).logprobs_T
        return _gradients(logprobs_T, (logits_TV,), dlogprobs_T)[0]


def dense(weight: Weight) -> Tensor:
    """The matrix as [N, K] floats: what gradients pass through."""
    return weight.to_dense() if weight.source is None else weight.source.detach()


def _leaf(tensor: Tensor) -> Tensor:
    """A copy, sharing memory, that collects its own gradient."""
    return tensor.detach().requires_grad_()


def _copy(cache: KvCache) -> KvCache:
    return KvCache(cache.keys.clone(), None if cache.values is None else cache.values.clone())


def _gradients(output: Tensor, inputs: Sequence[Tensor], doutput: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the inputs; zero for those that had no part in the output."""
    return torch.autograd.grad(output, inputs, doutput, materialize_grads=True)
