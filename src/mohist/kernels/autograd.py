"""The same ops for training: the forward pass is the wrapped ops' own, so its bits are those of inference.

What flows back is in `gradients`; here is what each op keeps for it. Gradients reach a matrix through
`Weight.source`; a weight without one is frozen, and only passes gradients on. Shape suffixes: see `ops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from mohist.kernels.activation import SILU, Activation
from mohist.kernels.gradients import Gradients, TorchGradients
from mohist.kernels.native import NativeOps
from mohist.kernels.native_gradients import NativeGradients
from mohist.kernels.ops import AttentionSpec, ExpertWeights, KvCache, Ops, RouteSpec, RowPlan, StateCache
from mohist.kernels.sampling import SampledRows, SampleRow, TokenScores
from mohist.kernels.weight import Weight
from mohist.types import SamplingParams

__all__ = ["TrainingOps"]

Grad = Tensor | None
Grads = tuple[Grad, ...]


class TrainingOps:
    """`Ops` through which gradients flow; every result is `ops`' own."""

    def __init__(self, ops: Ops) -> None:
        self.ops = ops
        self.name, self.exact, self.device = ops.name, ops.exact, ops.device
        fast = isinstance(ops, NativeOps) and not ops.definition
        self.gradients: Gradients = NativeGradients(ops) if fast else TorchGradients(ops)

    def embed(self, weight: Weight, tokens_T: Tensor) -> Tensor:
        """See `Ops.embed`."""
        return _Embed.apply(self, weight, tokens_T, weight.source)

    def linear(
        self,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.linear`."""
        factors = (x for w in weights for term in w.terms if term.factors for x in term.factors[:2])
        return _Linear.apply(self, weights, x_TK, bias, residual, *(w.source for w in weights), *factors)

    def linear_grouped(self, x_TNK: Tensor, weights: Sequence[Weight]) -> Tensor:
        """See `Ops.linear_grouped`."""
        return _LinearGrouped.apply(self, weights, x_TNK, *(w.source for w in weights))

    def rms_norm(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        *,
        shift: float = 0.0,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.rms_norm`."""
        return _RmsNorm.apply(self, eps, shift, x, weight, residual)

    def rope_angles(
        self, positions_T: Tensor, inv_freq_R: Tensor, scales_S: Tensor, *, period: int = 1
    ) -> Tensor:
        """See `Ops.rope_angles`."""
        return self.ops.rope_angles(positions_T, inv_freq_R, scales_S, period=period)

    def rope(self, x_TNH: Tensor, cos_sin_T2R: Tensor, *, interleaved: bool, offset: int = 0) -> Tensor:
        """See `Ops.rope`."""
        return _Rope.apply(self.ops, x_TNH, cos_sin_T2R, interleaved, offset)

    def glu(self, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """See `Ops.glu`."""
        return _Glu.apply(self, activation, gate_up_T2F)

    def scale(self, x_TD: Tensor, factor: float, *, residual: Tensor | None = None) -> Tensor:
        """See `Ops.scale`."""
        return _Scale.apply(self.ops, factor, x_TD, residual)

    def silu(self, x_TD: Tensor) -> Tensor:
        """See `Ops.silu`."""
        return _Silu.apply(self, x_TD)

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Ops.concat`."""
        return _Concat.apply(self.ops, a, b)

    def store(self, cache: KvCache, rows: RowPlan, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        """See `Ops.store`; the cache's tensors join the graph, so every layer and step needs its own."""
        _Store.apply(self, rows, cache.keys, cache.values, k_TGH, v_TGV)

    def attention(
        self,
        q_TNH: Tensor,
        cache: KvCache,
        rows: RowPlan,
        spec: AttentionSpec,
        *,
        sinks_N: Tensor | None = None,
        chosen_TK: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.attention`."""
        return _Attention.apply(self, rows, spec, chosen_TK, q_TNH, cache.keys, cache.values, sinks_N)

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        """See `Ops.layer_norm`; only where no gradients are recorded."""
        assert not torch.is_grad_enabled(), "layer_norm has no gradient"
        return self.ops.layer_norm(x_TD, weight_D, bias_D, eps)

    def select(self, q_TIJ: Tensor, weights_TI: Tensor, cache: KvCache, rows: RowPlan, top_k: int) -> Tensor:
        """See `Ops.select`."""
        return self.ops.select(q_TIJ, weights_TI, cache, rows, top_k)

    def lightning(
        self,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
    ) -> Tensor:
        """See `Ops.lightning`; nothing flows back into states that were there before."""
        return _Lightning.apply(self, cache, rows, decays_N, q_TNH, k_TNH, v_TNV)

    def route(self, logits_TE: Tensor, spec: RouteSpec, *, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Ops.route`; the bias chooses but never weighs, so it gets no gradient."""
        return _Route.apply(self, spec, bias_E, logits_TE)

    def moe(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        *,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.moe`."""
        if not torch.is_grad_enabled():  # then nothing needs to be kept
            return self.ops.moe(x_TD, experts_TK, weights_TK, experts, residual=residual)
        biases = experts.biases or (None, None, None)
        sources = (w.source for kind in experts.matrices for w in kind)
        return _Moe.apply(self, experts, experts_TK, x_TD, weights_TK, residual, *biases, *sources)

    def logprobs(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None = None,
        *,
        chunk: int,
    ) -> TokenScores:
        """See `Ops.logprobs`. Rows whose logprob has no gradient cost nothing in the backward pass."""
        if not torch.is_grad_enabled():
            return self.ops.logprobs(x_TD, head, targets_T, params, chunk=chunk)
        return TokenScores(*_Logprobs.apply(self, head, targets_T, params, chunk, x_TD, head.source))

    def sample(self, logits_TV: Tensor, rows: Sequence[SampleRow]) -> SampledRows:
        """See `Ops.sample`."""
        return self.ops.sample(logits_TV, rows)


class _Embed(Function):
    @staticmethod
    def forward(ctx: Any, outer: TrainingOps, weight: Weight, tokens_T: Tensor, source: Grad) -> Tensor:
        ctx.save_for_backward(tokens_T)
        ctx.gradients, ctx.vocab_size = outer.gradients, weight.out_features
        return outer.ops.embed(weight, tokens_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> Grads:
        (tokens_T,) = ctx.saved_tensors
        return None, None, None, ctx.gradients.embed(dy_TD, tokens_T, ctx.vocab_size)


class _Linear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        weights: Sequence[Weight],
        x_TK: Tensor,
        bias_N: Grad,
        residual_TN: Grad,
        *sources_and_factors: Grad,
    ) -> Tensor:
        ctx.save_for_backward(x_TK, *sources_and_factors)
        ctx.gradients, ctx.weights = outer.gradients, weights
        return outer.ops.linear(x_TK, weights, bias=bias_N, residual=residual_TN)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TN: Tensor) -> Grads:
        x_TK, *_ = ctx.saved_tensors
        _, _, wants_x, wants_bias, wants_residual, *wants = ctx.needs_input_grad
        wants = wants[: len(ctx.weights)]
        dx_TK, dsources = ctx.gradients.linear(dy_TN, x_TK, ctx.weights, wants_x=wants_x, wants=wants)
        dbias_N = ctx.gradients.bias(dy_TN) if wants_bias else None
        parts = dy_TN.split([w.out_features for w in ctx.weights], dim=1)
        dfactors: list[Grad] = []
        for part, weight in zip(parts, ctx.weights, strict=True):
            for term in weight.terms:
                assert term.factors is not None, "differences that are served have no gradient"
                dfactors += ctx.gradients.factors(part, x_TK, term.factors, dx_TK)
        return None, None, dx_TK, dbias_N, dy_TN if wants_residual else None, *dsources, *dfactors


class _LinearGrouped(Function):
    @staticmethod
    def forward(
        ctx: Any, outer: TrainingOps, weights: Sequence[Weight], x_TNK: Tensor, *sources: Grad
    ) -> Tensor:
        ctx.save_for_backward(x_TNK, *sources)
        ctx.gradients, ctx.weights = outer.gradients, weights
        return outer.ops.linear_grouped(x_TNK, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TNM: Tensor) -> Grads:
        x_TNK, *_ = ctx.saved_tensors
        wants = ctx.needs_input_grad[3:]
        dx_TNK, dsources = ctx.gradients.linear_grouped(dy_TNM, x_TNK, ctx.weights, wants=wants)
        return None, None, dx_TNK, *dsources


class _RmsNorm(Function):
    @staticmethod
    def forward(
        ctx: Any, outer: TrainingOps, eps: float, shift: float, x: Tensor, weight: Tensor, residual: Grad
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.gradients, ctx.eps, ctx.shift = outer.gradients, eps, shift
        return outer.ops.rms_norm(x, weight, eps, shift=shift, residual=residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Grads:
        dx, dweight = ctx.gradients.rms_norm(dy, *ctx.saved_tensors, ctx.eps, shift=ctx.shift)
        return None, None, None, dx, dweight, dy if ctx.needs_input_grad[5] else None


class _Rope(Function):
    """Backward turns the other way."""

    @staticmethod
    def forward(
        ctx: Any, ops: Ops, x_TNH: Tensor, cos_sin_T2R: Tensor, interleaved: bool, offset: int
    ) -> Tensor:
        ctx.save_for_backward(cos_sin_T2R)
        ctx.ops, ctx.interleaved, ctx.offset = ops, interleaved, offset
        return ops.rope(x_TNH, cos_sin_T2R, interleaved=interleaved, offset=offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TNH: Tensor) -> Grads:
        (cos_sin_T2R,) = ctx.saved_tensors
        backwards_T2R = cos_sin_T2R * cos_sin_T2R.new_tensor([[1.0], [-1.0]])
        options = {"interleaved": ctx.interleaved, "offset": ctx.offset}
        return None, ctx.ops.rope(dy_TNH.contiguous(), backwards_T2R, **options), None, None, None


class _Glu(Function):
    @staticmethod
    def forward(ctx: Any, outer: TrainingOps, activation: Activation, gate_up_T2F: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up_T2F)
        ctx.gradients, ctx.activation = outer.gradients, activation
        return outer.ops.glu(gate_up_T2F, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TF: Tensor) -> Grads:
        return None, None, ctx.gradients.glu(dy_TF, *ctx.saved_tensors, ctx.activation)


class _Scale(Function):
    @staticmethod
    def forward(ctx: Any, ops: Ops, factor: float, x_TD: Tensor, residual_TD: Grad) -> Tensor:
        ctx.ops, ctx.factor = ops, factor
        return ops.scale(x_TD, factor, residual=residual_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> Grads:
        dx_TD = ctx.ops.scale(dy_TD.contiguous(), ctx.factor)
        return None, None, dx_TD, dy_TD if ctx.needs_input_grad[3] else None


class _Silu(Function):
    @staticmethod
    def forward(ctx: Any, outer: TrainingOps, x_TD: Tensor) -> Tensor:
        ctx.save_for_backward(x_TD)
        ctx.gradients = outer.gradients
        return outer.ops.silu(x_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> Grads:
        return None, ctx.gradients.silu(dy_TD, *ctx.saved_tensors)


class _Lightning(Function):
    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(q_TNH, k_TNH, v_TNV, decays_N)
        ctx.gradients, ctx.cache, ctx.rows = outer.gradients, cache, rows
        return outer.ops.lightning(q_TNH, k_TNH, v_TNV, cache, rows, decays_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TNV: Tensor) -> Grads:
        *inputs, decays_N = ctx.saved_tensors
        return (
            None,
            None,
            None,
            None,
            *ctx.gradients.lightning(dout_TNV, *inputs, ctx.cache, ctx.rows, decays_N),
        )


class _Concat(Function):
    @staticmethod
    def forward(ctx: Any, ops: Ops, a: Tensor, b: Tensor) -> Tensor:
        ctx.widths = a.shape[-1], b.shape[-1]
        return ops.concat(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Grads:
        return None, *dy.split(ctx.widths, dim=-1)


class _Store(Function):
    """Writes into the cache. Backward: a written slot's gradient belongs to what was written."""

    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        rows: RowPlan,
        keys: Tensor,
        values: Grad,
        k_TGH: Tensor,
        v_TGV: Grad,
    ) -> tuple[Tensor, Grad]:
        outer.ops.store(KvCache(keys, values), rows, k_TGH, v_TGV)
        ctx.mark_dirty(*(tensor for tensor in (keys, values) if tensor is not None))
        ctx.gradients, ctx.rows = outer.gradients, rows
        return keys, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dkeys: Tensor, dvalues: Grad) -> Grads:
        written_before = ctx.needs_input_grad[2]
        dcache = KvCache(dkeys, dvalues)
        dk_TGH, dv_TGV, dcache = ctx.gradients.store(dcache, ctx.rows, clear=written_before)
        before = (dcache.keys, dcache.values) if written_before else (None, None)
        return None, None, *before, dk_TGH, dv_TGV


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        rows: RowPlan,
        spec: AttentionSpec,
        chosen_TK: Tensor | None,
        q_TNH: Tensor,
        keys: Tensor,
        *values_and_sinks: Grad,
    ) -> Tensor:
        values, sinks_N = values_and_sinks
        ctx.save_for_backward(q_TNH, keys, values, sinks_N)
        ctx.gradients, ctx.rows, ctx.spec, ctx.chosen_TK = outer.gradients, rows, spec, chosen_TK
        cache = KvCache(keys, values)
        return outer.ops.attention(q_TNH, cache, rows, spec, sinks_N=sinks_N, chosen_TK=chosen_TK)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_TNV: Tensor) -> Grads:
        q_TNH, keys, values, sinks_N = ctx.saved_tensors
        cache, options = KvCache(keys, values), {"sinks_N": sinks_N, "chosen_TK": ctx.chosen_TK}
        dq_TNH, dcache, dsinks_N = ctx.gradients.attention(
            dout_TNV, q_TNH, cache, ctx.rows, ctx.spec, **options
        )
        return None, None, None, None, dq_TNH, dcache.keys, dcache.values, dsinks_N


class _Route(Function):
    @staticmethod
    def forward(
        ctx: Any, outer: TrainingOps, spec: RouteSpec, bias_E: Grad, logits_TE: Tensor
    ) -> tuple[Tensor, Tensor]:
        experts_TK, weights_TK = outer.ops.route(logits_TE, spec, bias_E=bias_E)
        ctx.save_for_backward(logits_TE, experts_TK)
        ctx.gradients, ctx.spec = outer.gradients, spec
        ctx.mark_non_differentiable(experts_TK)
        return experts_TK, weights_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _dexperts: Grad, dweights_TK: Tensor) -> Grads:
        return None, None, None, ctx.gradients.route(dweights_TK, *ctx.saved_tensors, ctx.spec)


class _Moe(Function):
    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        experts: ExpertWeights,
        experts_TK: Tensor,
        x_TD: Tensor,
        weights_TK: Tensor,
        residual_TD: Grad,
        *biases_and_sources: Grad,
    ) -> Tensor:
        y_TD, kept = outer.gradients.moe_forward(x_TD, experts_TK, weights_TK, experts, residual_TD)
        ctx.save_for_backward(x_TD, experts_TK, weights_TK, kept, *biases_and_sources)
        ctx.gradients, ctx.experts = outer.gradients, experts
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TD: Tensor) -> Grads:
        x_TD, experts_TK, weights_TK, kept, *_ = ctx.saved_tensors
        wants = ctx.needs_input_grad[9 :: len(ctx.experts.gate)]
        found = ctx.gradients.moe(dy_TD, x_TD, experts_TK, weights_TK, ctx.experts, kept, wants=wants)
        dresidual_TD = dy_TD if ctx.needs_input_grad[5] else None
        dbiases = found.biases or (None, None, None)
        return None, None, None, found.x_TD, found.weights_TK, dresidual_TD, *dbiases, *found.matrices


class _Logprobs(Function):
    """Head and log-softmax in one. The logits of the last chunk are kept, the others computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        outer: TrainingOps,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None,
        chunk: int,
        x_TD: Tensor,
        source: Grad,
    ) -> tuple[Tensor, Tensor]:
        scores, ctx.last_logits = outer.gradients.logprobs_forward(x_TD, head, targets_T, params, chunk=chunk)
        ctx.save_for_backward(x_TD, targets_T, source)
        ctx.outer, ctx.head, ctx.params, ctx.chunk = outer, head, params, chunk
        ctx.mark_non_differentiable(scores.entropies_T)
        return scores.logprobs_T, scores.entropies_T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogprobs_T: Tensor, _dentropies: Grad) -> Grads:
        x_TD, targets_T, source = ctx.saved_tensors
        *_, wants_x, wants_head = ctx.needs_input_grad
        dx_TD = torch.zeros_like(x_TD) if wants_x else None
        dheads = [torch.zeros_like(source) if wants_head else None]
        options = {"wants_x": wants_x, "wants": (wants_head,), "add_to": dheads}
        gradients = ctx.outer.gradients
        for some, logits in _Logprobs.chunks(ctx, x_TD, dlogprobs_T.nonzero()[:, 0]):
            dlogits = gradients.logprobs(dlogprobs_T[some], logits, targets_T[some], ctx.params)
            dx, _ = gradients.linear(dlogits, x_TD[some], (ctx.head,), **options)
            if dx_TD is not None:
                dx_TD[some] = dx
            del logits, dlogits  # before the next are computed
        return None, None, None, None, None, dx_TD, dheads[0]

    @staticmethod
    def chunks(ctx: Any, x_TD: Tensor, rows_J: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some of `rows_J`, with their logits, at a time; the kept logits serve once, their room is used."""
        logits, ctx.last_logits = ctx.last_logits, None
        if logits is not None:
            first = len(x_TD) - len(logits)
            rows_J, last = rows_J[rows_J < first], rows_J[rows_J >= first]
            if len(last):
                yield last, logits if len(last) == len(logits) else logits[last - first]
            del logits
        for some in rows_J.split(ctx.chunk) if len(rows_J) else ():
            yield some, ctx.outer.ops.linear(x_TD[some], (ctx.head,))
