"""`NativeGradients`: the backward pass on the C++ kernels.

Every sum runs in an order that follows from the shapes alone, so gradients are the same bits from run to run
and for any number of threads. They are float32, and close to `TorchGradients`, not equal. Shape suffixes: see
`ops`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_int64, c_void_p
from typing import NamedTuple

import torch
from torch import Tensor

from mohist.kernels import abi
from mohist.kernels.activation import SILU, Activation
from mohist.kernels.gradients import MoeGradients, dense
from mohist.kernels.memory import recycled
from mohist.kernels.native import NativeOps
from mohist.kernels.operands import (
    activation_struct,
    cache_struct,
    distribution,
    plan_struct,
    pointer,
    rows_contiguous,
)
from mohist.kernels.ops import (
    AttentionSpec,
    ExpertBiases,
    ExpertWeights,
    KvCache,
    LightningSpec,
    RouteSpec,
    RowPlan,
    StateCache,
)
from mohist.kernels.sampling import TokenScores
from mohist.kernels.weight import Factors, Weight
from mohist.types import SamplingParams

__all__ = ["NativeGradients"]

Grad = Tensor | None

_LINE = 16
"""Numbers of a cache line."""


class _Product(NamedTuple):
    """out = a @ b, or a.T @ b where `transposed`; with `add`, added to it."""

    a: Tensor
    b: Tensor
    out: Tensor
    transposed: bool = False
    add: bool = False

    def args(self) -> abi.ProductArgs:
        m, k = self.a.shape[::-1] if self.transposed else self.a.shape
        n = self.b.shape[1]
        assert self.b.shape[0] == k, (self.a.shape, self.b.shape, self.transposed)
        assert self.out.shape == (m, n), (self.a.shape, self.b.shape, self.out.shape)
        operands = (self.a, self.b, self.out)
        pointers, strides = (x.data_ptr() for x in operands), (x.stride(0) for x in operands)
        return abi.ProductArgs(*pointers, None, None, m, n, k, *strides, self.transposed, self.add)


class NativeGradients:
    """See `mohist.kernels.gradients.Gradients`."""

    def __init__(self, ops: NativeOps) -> None:
        self._ops = ops

    def embed(self, dy_TD: Tensor, tokens_T: Tensor, vocab_size: int) -> Tensor:
        """See `Gradients.embed`."""
        dy_TD = _rows(dy_TD)
        dweight_VD = dy_TD.new_zeros(vocab_size, dy_TD.shape[1])
        self._run(
            abi.EmbedBackwardArgs(
                tokens_T.data_ptr(), dy_TD.data_ptr(), dweight_VD.data_ptr(), *dy_TD.shape, dy_TD.stride(0)
            )
        )
        return dweight_VD

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
        dy_TN, x_TK = _rows(dy_TN), _rows(x_TK)
        parts = dy_TN.split([w.out_features for w in weights], dim=1)
        products: list[_Product] = []
        dx_TK = recycled.empty(*x_TK.shape) if wants_x else None
        if dx_TK is not None:
            products += (
                _Product(part, _rows(dense(weight)), dx_TK, add=i > 0)
                for i, (part, weight) in enumerate(zip(parts, weights, strict=True))
            )
        if add_to is not None:
            dmatrices = list(add_to)
        else:
            dmatrices = [
                recycled.empty(w.out_features, w.in_features) if wanted else None
                for w, wanted in zip(weights, wants, strict=True)
            ]
        products += (
            _Product(part, x_TK, dmatrix, transposed=True, add=add_to is not None)
            for part, dmatrix in zip(parts, dmatrices, strict=True)
            if dmatrix is not None
        )
        self._multiply(*products)
        return dx_TK, dmatrices

    def factors(self, dy_TN: Tensor, x_TK: Tensor, factors: Factors, dx_TK: Grad) -> tuple[Tensor, Tensor]:
        """See `Gradients.factors`."""
        dy_TN, x_TK = _rows(dy_TN), _rows(x_TK)
        thin_TR, dthin_TR = recycled.empty(2, len(x_TK), len(factors.a_RK))
        self._multiply(
            _Product(x_TK, factors.a_RK.T.contiguous(), thin_TR),
            _Product(dy_TN, _rows(factors.b_NR), dthin_TR),
        )
        dthin_TR.mul_(factors.scale)
        if dx_TK is not None:
            self._multiply(_Product(dthin_TR, _rows(factors.a_RK), dx_TK, add=True))
        da_RK, db_NR = recycled.empty(*factors.a_RK.shape), recycled.empty(*factors.b_NR.shape)
        self._multiply(
            _Product(dthin_TR, x_TK, da_RK, transposed=True), _Product(dy_TN, thin_TR, db_NR, transposed=True)
        )
        return da_RK, db_NR.mul_(factors.scale)

    def bias(self, dy_TN: Tensor) -> Tensor:
        """See `Gradients.bias`."""
        dbias_1N = recycled.empty(1, dy_TN.shape[1])
        self._multiply(_Product(torch.ones(1, len(dy_TN)), _rows(dy_TN), dbias_1N))
        return dbias_1N[0]

    def linear_grouped(
        self, dy_TNM: Tensor, x_TNK: Tensor, weights: Sequence[Weight], *, wants: Sequence[bool]
    ) -> tuple[Tensor, list[Grad]]:
        """See `Gradients.linear_grouped`."""
        dy_TNM, x_TNK = _rows(dy_TNM), _rows(x_TNK)
        dx_TNK = recycled.empty(*x_TNK.shape)
        matrices = [_rows(dense(weight)) for weight in weights]
        dmatrices = [
            recycled.empty(w.out_features, w.in_features) if wanted else None
            for w, wanted in zip(weights, wants, strict=True)
        ]
        products = [_Product(dy_TNM[:, n], matrix, dx_TNK[:, n]) for n, matrix in enumerate(matrices)]
        products += (
            _Product(dy_TNM[:, n], x_TNK[:, n], dmatrix, transposed=True)
            for n, dmatrix in enumerate(dmatrices)
            if dmatrix is not None
        )
        self._multiply(*products)
        return dx_TNK, dmatrices

    def rms_norm(
        self, dy: Tensor, x: Tensor, weight: Tensor, eps: float, *, shift: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """See `Gradients.rms_norm`."""
        dy, x = _rows(dy), _rows(x)
        dx, dweight = recycled.empty(*x.shape), recycled.empty(*weight.shape)
        nested = x.dim() == 3
        self._run(
            abi.RmsNormBackwardArgs(
                x.data_ptr(),
                weight.data_ptr(),
                dy.data_ptr(),
                dx.data_ptr(),
                dweight.data_ptr(),
                x.shape[0],
                x.shape[1] if nested else 1,
                x.shape[-1],
                x.stride(0),
                x.stride(1) if nested else 0,
                dy.stride(0),
                dy.stride(1) if nested else 0,
                eps,
                shift,
            )
        )
        return dx, dweight

    def glu(self, dy_TF: Tensor, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """See `Gradients.glu`."""
        dy_TF, gate_up_T2F = _rows(dy_TF), _rows(gate_up_T2F)
        dx_T2F = recycled.empty(*gate_up_T2F.shape)
        self._run(
            abi.GluBackwardArgs(
                gate_up_T2F.data_ptr(),
                dy_TF.data_ptr(),
                dx_T2F.data_ptr(),
                *dy_TF.shape,
                gate_up_T2F.stride(0),
                dy_TF.stride(0),
                activation_struct(activation),
            )
        )
        return dx_T2F

    def silu(self, dy_TD: Tensor, x_TD: Tensor) -> Tensor:
        """See `Gradients.silu`."""
        dy_TD, x_TD = _rows(dy_TD), _rows(x_TD)
        dx_TD = torch.empty(x_TD.shape)
        pointers = x_TD.data_ptr(), dy_TD.data_ptr(), dx_TD.data_ptr()
        self._run(abi.SiluBackwardArgs(*pointers, *x_TD.shape, x_TD.stride(0), dy_TD.stride(0)))
        return dx_TD

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
        """See `Gradients.lightning`: the same scan with the operands' parts exchanged.

        dq reads the transposed states, forward. With G the gradient of a state, dv = G^T k and dk = G v, and
        G is what a scan in reverse makes of queries and dout.
        """
        num_blocks, block_size = len(cache.states), cache.block_size

        def scan(q: Tensor, k: Tensor, v: Tensor, *, reverse: bool) -> Tensor:
            spec = LightningSpec(layer=0, num_heads=q.shape[1], key_dim=q.shape[2], value_dim=v.shape[2])
            fresh = StateCache.zeros(
                spec, num_blocks=num_blocks, block_size=block_size, device=self._ops.device
            )
            return self._ops.lightning(q, k, v, fresh, rows, decays_N, reverse=reverse)

        dout_TNV, q_TNH, k_TNH, v_TNV = map(_rows, (dout_TNV, q_TNH, k_TNH, v_TNV))
        dq_TNH = scan(dout_TNV, v_TNV, k_TNH, reverse=False)
        dk_TNH = scan(v_TNV, dout_TNV, q_TNH, reverse=True)
        return dq_TNH, dk_TNH, scan(k_TNH, q_TNH, dout_TNV, reverse=True)

    def store(self, dcache: KvCache, rows: RowPlan, *, clear: bool) -> tuple[Tensor, Grad, KvCache]:
        """See `Gradients.store`."""
        if clear:
            dcache = KvCache(dcache.keys.clone(), None if dcache.values is None else dcache.values.clone())
        _, heads, _, key_dim, _ = dcache.keys.shape
        num_rows = len(rows.positions_T)
        dk_TGH = recycled.empty(num_rows, heads, key_dim)
        dv_TGV = None if dcache.values is None else recycled.empty(num_rows, heads, dcache.values.shape[3])
        structs = cache_struct(dcache), plan_struct(rows)
        self._run(
            abi.StoreBackwardArgs(
                *map(ctypes.addressof, structs), dk_TGH.data_ptr(), pointer(dv_TGV), num_rows, clear
            )
        )
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
        dout_TNV, q_TNH = _rows(dout_TNV), _rows(q_TNH)
        dq_TNH = recycled.empty(*q_TNH.shape)
        dkeys = recycled.empty(*cache.keys.shape).zero_()
        dvalues = None if cache.values is None else recycled.empty(*cache.values.shape).zero_()
        dsinks_TN = None if sinks_N is None else recycled.empty(*q_TNH.shape[:2])
        structs = cache_struct(cache, spec.value_dim), plan_struct(rows)
        self._run(
            abi.AttentionBackwardArgs(
                *map(ctypes.addressof, structs),
                q_TNH.data_ptr(),
                pointer(sinks_N),
                pointer(chosen_TK),
                dout_TNV.data_ptr(),
                dq_TNH.data_ptr(),
                pointer(dsinks_TN),
                dkeys.data_ptr(),
                pointer(dvalues),
                *q_TNH.shape[:2],
                *q_TNH.stride()[:2],
                *dout_TNV.stride()[:2],
                spec.window or 0,
                0 if chosen_TK is None else chosen_TK.shape[1],
                spec.scale,
            )
        )
        dsinks_N = None if dsinks_TN is None else self.bias(dsinks_TN)
        return dq_TNH, KvCache(dkeys, dvalues), dsinks_N

    def route(self, dweights_TK: Tensor, logits_TE: Tensor, experts_TK: Tensor, spec: RouteSpec) -> Tensor:
        """See `Gradients.route`."""
        dweights_TK, logits_TE = dweights_TK.contiguous(), _rows(logits_TE)
        dlogits_TE = recycled.empty(*logits_TE.shape)
        self._run(
            abi.RouteBackwardArgs(
                logits_TE.data_ptr(),
                experts_TK.data_ptr(),
                dweights_TK.data_ptr(),
                dlogits_TE.data_ptr(),
                *logits_TE.shape,
                spec.top_k,
                spec.scoring == "sigmoid",
                spec.renormalize,
                logits_TE.stride(0),
                spec.scale,
            )
        )
        return dlogits_TE

    def moe_forward(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        residual_TD: Grad,
    ) -> tuple[Tensor, Grad]:
        """See `Gradients.moe_forward`: gates and ups are kept."""
        gate_up = recycled.empty(experts_TK.numel(), 2 * experts.gate[0].out_features)
        y_TD = self._ops.moe(x_TD, experts_TK, weights_TK, experts, residual=residual_TD, gate_up=gate_up)
        return y_TD, gate_up

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
        assert kept is not None
        dy_TD, x_TD = _rows(dy_TD), _rows(x_TD)
        dx_TD, dweights_TK = recycled.empty(*x_TD.shape), recycled.empty(*weights_TK.shape)
        matrices = [[dense(weight).contiguous() for weight in kind] for kind in experts.matrices]
        down_bias_ED = experts.biases.down_ED if experts.biases else None
        dbiases = ExpertBiases(*map(torch.empty_like, experts.biases)) if experts.biases else None
        gradients: list[list[Grad]] = [
            [recycled.empty(*matrix.shape) if wanted else None for matrix in kind]
            for kind, wanted in zip(matrices, wants, strict=True)
        ]
        pointers = [_pointers(kind) for kind in (*matrices, *gradients)]
        self._run(
            abi.MoeBackwardArgs(
                x_TD.data_ptr(),
                experts_TK.data_ptr(),
                weights_TK.data_ptr(),
                kept.data_ptr(),
                dy_TD.data_ptr(),
                *(None if p is None else ctypes.addressof(p) for p in pointers[:3]),
                pointer(down_bias_ED),
                dx_TD.data_ptr(),
                dweights_TK.data_ptr(),
                *(None if p is None else ctypes.addressof(p) for p in pointers[3:]),
                *map(pointer, dbiases or (None, None, None)),
                len(x_TD),
                len(experts.gate),
                experts_TK.shape[1],
                x_TD.shape[1],
                experts.gate[0].out_features,
                x_TD.stride(0),
                dy_TD.stride(0),
                activation_struct(experts.activation),
            )
        )
        return MoeGradients(dx_TD, dweights_TK, [d for kind in gradients for d in kind], dbiases)

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
        logits_TV = _spread(min(chunk, len(x_TD)), head.out_features)
        scores = self._ops.logprobs(x_TD, head, targets_T, params, chunk=chunk, logits_TV=logits_TV)
        return scores, logits_TV[: (len(x_TD) - 1) % chunk + 1]

    def logprobs(
        self, dlogprobs_T: Tensor, logits_TV: Tensor, targets_T: Tensor, params: SamplingParams | None
    ) -> Tensor:
        """See `Gradients.logprobs`."""
        dlogprobs_T = dlogprobs_T.contiguous()
        self._run(
            abi.LogprobsBackwardArgs(
                logits_TV.data_ptr(),
                targets_T.data_ptr(),
                dlogprobs_T.data_ptr(),
                *logits_TV.shape,
                logits_TV.stride(0),
                *distribution(params),
            )
        )
        return logits_TV

    def _multiply(self, *products: _Product) -> None:
        """Compute all of them at once; none may read what another writes.

        One that adds to the result of the one before it goes on with that.
        """
        array = (abi.ProductArgs * len(products))(*(product.args() for product in products))
        self._run(abi.ProductsArgs(ctypes.addressof(array), len(products)))

    def _run(self, args: abi.OpArgs) -> None:
        self._ops.run(byref(c_int64(args.op)), byref(c_void_p(ctypes.addressof(args))), 1)


def _rows(x: Tensor) -> Tensor:
    """x itself, if its rows are contiguous; gradients may come in any layout."""
    return rows_contiguous(x if x.stride(-1) == 1 else x.contiguous())


def _spread(rows: int, columns: int) -> Tensor:
    """Room for rows, a cache line apart: a power of two from row to row lets all compete for few lines."""
    return recycled.empty(rows, columns + _LINE)[:, :columns]


def _pointers(tensors: Sequence[Grad]) -> ctypes.Array[c_void_p] | None:
    if any(tensor is None for tensor in tensors):
        return None
    return (c_void_p * len(tensors))(*(pointer(tensor) for tensor in tensors))
