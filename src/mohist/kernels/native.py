"""`NativeOps`: the ops on the C++ kernels, one by one or recorded on a tape and replayed.

An op here checks shapes, makes room for its result and fills in the arguments of its kernel. Normally it runs
at once. While a `Tape` is recorded it is only written down, with the addresses of its operands; replaying the
tape then runs the whole forward pass in one call, without Python in between. Inputs of a taped pass are
tensors whose *contents* change from replay to replay; all that a recorded pass computes is in the ops' arena.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from ctypes import byref, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mohist.kernels import abi
from mohist.kernels.activation import SILU, Activation
from mohist.kernels.memory import recycled
from mohist.kernels.operands import (
    INT32_MAX,
    activation_struct,
    cache_struct,
    distribution,
    plan_struct,
    pointer,
    rows_contiguous,
    weight_structs,
)
from mohist.kernels.ops import AttentionSpec, ExpertWeights, KvCache, RouteSpec, RowPlan, StateCache
from mohist.kernels.sampling import SampledRows, SampleRow, TokenScores
from mohist.kernels.weight import Weight
from mohist.types import SamplingParams

__all__ = ["NativeOps", "SampleBuffers", "Tape"]


class Tape:
    """A recorded list of operations. Its operands must keep their addresses for as long as it is replayed."""

    def __init__(self, ops: NativeOps) -> None:
        self._ops = ops
        self._codes: list[int] = []
        self._args: list[abi.OpArgs] = []
        self._keep: list[Any] = []
        self._frozen: tuple[Any, Any] | None = None

    def append(self, args: abi.OpArgs, keep: tuple[Any, ...]) -> None:
        """Record one operation; `keep` are objects that `args` points into and that nobody else holds."""
        self._codes.append(args.op)
        self._args.append(args)
        self._keep.extend(keep)

    def replay(self) -> None:
        """Run every operation again, on what its operands hold now."""
        if self._frozen is None:
            count = len(self._codes)
            pointers = (c_void_p * count)(*(ctypes.addressof(args) for args in self._args))
            self._frozen = (c_int64 * count)(*self._codes), pointers
        self._ops.run(*self._frozen, len(self._codes))


class _Arena:
    """Memory for recorded results. A block is reused once the last tensor on it is gone, as in eager code.

    Tapes run one after another and each writes what it reads, so all tapes of one `NativeOps` share blocks.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = {}
        self._handles: dict[int, weakref.ref[np.ndarray]] = {}

    def empty(self, num_bytes: int) -> Tensor:
        """uint8 [num_bytes], aligned to 64 bytes; goes back to the arena with its storage."""
        size = 1 << max(12, (num_bytes - 1).bit_length())
        free = self._free.setdefault(size, [])
        block = free.pop() if free else _aligned(size)
        view = block[:num_bytes]
        key = id(view)

        def give_back(_: object) -> None:
            del self._handles[key]
            free.append(block)

        # the tensor's storage holds `view` until the last tensor that shares it is gone
        self._handles[key] = weakref.ref(view, give_back)
        return torch.from_numpy(view)


def _aligned(size: int) -> np.ndarray:
    raw = np.empty(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


class SampleBuffers:
    """Where sampling reads its parameters and writes its results: fixed addresses for up to `rows` rows.

    `max_top` must not exceed the vocabulary; rows that ask for more of the likeliest tokens get that many.
    """

    def __init__(self, rows: int, max_top: int) -> None:
        self.rows, self.max_top = rows, max_top
        self.params = (abi.SampleRowArgs * rows)()
        self.tokens = torch.zeros(rows, dtype=torch.int32)
        self.logprobs = torch.zeros(rows)
        self.sampled_logprobs = torch.zeros(rows)
        self.top_tokens = torch.zeros(rows, max(1, max_top), dtype=torch.int32)
        self.top_logprobs = torch.zeros(rows, max(1, max_top))
        # numpy cuts off a few numbers faster
        self._drawn = [drawn.numpy() for drawn in (self.tokens, self.logprobs, self.sampled_logprobs)]
        self._keep: list[Any] = []

    def fill(self, rows: Sequence[SampleRow]) -> None:
        """Set the parameters of the first rows."""
        self._keep.clear()
        for args, row in zip(self.params, rows, strict=False):
            p = row.params
            args.seed, args.sample, args.position = p.seed, row.sample, row.position
            args.temperature, args.top_p, args.min_p = p.temperature, p.top_p, p.min_p
            args.top_k = min(p.top_k, INT32_MAX)
            args.repetition_penalty = p.repetition_penalty
            args.presence_penalty, args.frequency_penalty = p.presence_penalty, p.frequency_penalty
            args.num_top = min(p.top_logprobs, self.max_top)
            args.num_seen, args.allowed = 0, None
            if row.allowed is not None:
                allowed = np.frombuffer(row.allowed, np.uint8)
                self._keep.append(allowed)
                args.allowed = allowed.ctypes.data
            if row.seen:
                seen = np.fromiter(row.seen.keys(), np.int32, len(row.seen))
                counts = np.fromiter(row.seen.values(), np.int32, len(row.seen))
                self._keep += (seen, counts)
                args.seen, args.seen_counts, args.num_seen = seen.ctypes.data, counts.ctypes.data, len(seen)

    def read(self, count: int) -> SampledRows:
        """What was drawn for the first `count` rows."""
        num_top = [self.params[i].num_top for i in range(count)]
        tops: list[tuple[tuple[int, float], ...]] = [()] * count
        if any(num_top):
            ids, values = self.top_tokens.tolist(), self.top_logprobs.tolist()
            tops = [tuple(zip(ids[i][:n], values[i][:n], strict=True)) for i, n in enumerate(num_top)]
        tokens, logprobs, sampled_logprobs = (drawn[:count].tolist() for drawn in self._drawn)
        return SampledRows(tokens, logprobs, sampled_logprobs, tops)


class NativeOps:
    """Exact ops on the CPU. One thread at a time may use an instance; it owns a pool of worker threads."""

    exact = True

    def __init__(self, path: Path, threads: int, *, definition: bool = False) -> None:
        """Load the library at `path`; `definition` runs the scalar twins instead (slow, for tests)."""
        self._library = abi.load_library(path)
        self.definition = definition
        self._pool = c_void_p(self._library.mohist_pool_create(threads))
        self.threads = threads
        self.device = torch.device("cpu")
        isa = self._library.mohist_isa().decode()
        self.name = f"native {'definition' if definition else isa}, {threads} thread{'s' * (threads != 1)}"
        self._arena = _Arena()
        self._tape: Tape | None = None
        self._destroy = weakref.finalize(self, self._library.mohist_pool_destroy, self._pool)

    def run(self, codes: Any, args: Any, count: int) -> None:
        """Run `count` operations, given as arrays of opcodes and of pointers to their arguments."""
        if self.definition:
            failed = self._library.mohist_run_definition(codes, args, count)
        else:
            failed = self._library.mohist_run(self._pool, codes, args, count)
        assert failed == 0, f"operation {failed - 1} has an unknown opcode"

    @contextmanager
    def record(self) -> Generator[Tape]:
        """Write operations down instead of running them. Nothing else may touch their results meanwhile."""
        assert self._tape is None, "a tape is being recorded already"
        self._tape = Tape(self)
        try:
            yield self._tape
        finally:
            self._tape = None

    def _do(self, args: abi.OpArgs, *keep: Any) -> None:
        if self._tape is not None:
            self._tape.append(args, keep)
        else:
            self.run(byref(c_int64(args.op)), byref(c_void_p(ctypes.addressof(args))), 1)

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        if self._tape is None:
            return recycled.empty(*shape, dtype=dtype)
        return (
            self._arena.empty(max(1, math.prod(shape)) * dtype.itemsize)
            .view(dtype)[: math.prod(shape)]
            .view(shape)
        )

    def embed(self, weight: Weight, tokens_T: Tensor) -> Tensor:
        """See `Ops.embed`."""
        assert tokens_T.dtype == torch.int32, tokens_T.dtype
        y = self._empty(len(tokens_T), weight.in_features)
        struct = weight_structs([weight])
        args = abi.EmbedArgs(
            ctypes.addressof(struct), tokens_T.data_ptr(), y.data_ptr(), len(tokens_T), weight.in_features
        )
        self._do(args, struct, tokens_T)
        return y

    def linear(
        self,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.linear`."""
        y = self._empty(len(x_TK), sum(w.out_features for w in weights))
        self._linear(x_TK, weights, y, bias, residual)
        column = 0
        for w in weights:
            for term in w.terms:
                rows = slice(term.start, term.end)
                part = y[rows, column : column + w.out_features]
                self._linear(self.linear(x_TK[rows], (term.a,)), (term.b,), part, None, part)
            column += w.out_features
        return y

    def _linear(
        self, x_TK: Tensor, weights: Sequence[Weight], y: Tensor, bias: Tensor | None, residual: Tensor | None
    ) -> None:
        assert x_TK.shape[1] == weights[0].in_features, (x_TK.shape, weights[0])
        x_TK = rows_contiguous(x_TK)
        struct = weight_structs(weights)
        args = abi.LinearArgs(
            x_TK.data_ptr(),
            ctypes.addressof(struct),
            pointer(bias),
            pointer(residual),
            y.data_ptr(),
            len(weights),
            len(x_TK),
            x_TK.stride(0),
            residual.stride(0) if residual is not None else 0,
            y.stride(0),
        )
        self._do(args, struct)

    def linear_grouped(self, x_TNK: Tensor, weights: Sequence[Weight]) -> Tensor:
        """See `Ops.linear_grouped`."""
        rows, groups, _ = x_TNK.shape
        width = weights[0].out_features
        assert groups == len(weights), (x_TNK.shape, len(weights))
        x_TNK = rows_contiguous(x_TNK)
        y = self._empty(rows, groups, width)
        struct = weight_structs(weights)
        args = abi.LinearGroupedArgs(
            x_TNK.data_ptr(),
            ctypes.addressof(struct),
            y.data_ptr(),
            groups,
            rows,
            x_TNK.stride(0),
            x_TNK.stride(1),
            groups * width,
            width,
        )
        self._do(args, struct)
        return y

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
        assert residual is None or x.dim() == 2, x.shape
        x = rows_contiguous(x)
        y = self._empty(*x.shape)
        rows, inner, dim = (x.shape[0], 1, x.shape[1]) if x.dim() == 2 else x.shape
        inner_stride = x.stride(1) if x.dim() == 3 else 0
        args = abi.RmsNormArgs(
            x.data_ptr(),
            weight.data_ptr(),
            pointer(residual),
            y.data_ptr(),
            rows,
            inner,
            dim,
            x.stride(0),
            inner_stride,
            residual.stride(0) if residual is not None else 0,
            inner * dim,
            dim,
            eps,
            shift,
        )
        self._do(args)
        return y

    def rope_angles(
        self, positions_T: Tensor, inv_freq_R: Tensor, scales_S: Tensor, *, period: int = 1
    ) -> Tensor:
        """See `Ops.rope_angles`."""
        assert positions_T.dtype == torch.int32, positions_T.dtype
        rows, pairs = len(positions_T), len(inv_freq_R)
        y = self._empty(rows, 2, pairs)
        args = abi.RopeAnglesArgs(
            positions_T.data_ptr(),
            inv_freq_R.data_ptr(),
            scales_S.data_ptr(),
            y.data_ptr(),
            rows,
            pairs,
            len(scales_S),
            period,
        )
        self._do(args, positions_T, inv_freq_R, scales_S)
        return y

    def rope(self, x_TNH: Tensor, cos_sin_T2R: Tensor, *, interleaved: bool, offset: int = 0) -> Tensor:
        """See `Ops.rope`."""
        x_TNH = rows_contiguous(x_TNH)
        rows, heads, dim = x_TNH.shape
        y = self._empty(rows, heads, dim)
        args = abi.RopeArgs(
            x_TNH.data_ptr(),
            cos_sin_T2R.data_ptr(),
            y.data_ptr(),
            rows,
            heads,
            dim,
            cos_sin_T2R.shape[2],
            offset,
            interleaved,
            x_TNH.stride(0),
            x_TNH.stride(1),
            heads * dim,
            dim,
        )
        self._do(args)
        return y

    def glu(self, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """See `Ops.glu`."""
        gate_up_T2F = rows_contiguous(gate_up_T2F)
        rows, dim = gate_up_T2F.shape[0], gate_up_T2F.shape[1] // 2
        y = self._empty(rows, dim)
        args = abi.GluArgs(
            gate_up_T2F.data_ptr(),
            y.data_ptr(),
            rows,
            dim,
            gate_up_T2F.stride(0),
            dim,
            activation_struct(activation),
        )
        self._do(args)
        return y

    def scale(self, x_TD: Tensor, factor: float, *, residual: Tensor | None = None) -> Tensor:
        """See `Ops.scale`."""
        x_TD = rows_contiguous(x_TD)
        y = self._empty(*x_TD.shape)
        args = abi.ScaleArgs(
            x_TD.data_ptr(),
            pointer(residual),
            y.data_ptr(),
            *x_TD.shape,
            x_TD.stride(0),
            residual.stride(0) if residual is not None else 0,
            y.stride(0),
            factor,
        )
        self._do(args)
        return y

    def silu(self, x_TD: Tensor) -> Tensor:
        """See `Ops.silu`."""
        x_TD = rows_contiguous(x_TD)
        y = self._empty(*x_TD.shape)
        self._do(abi.SiluArgs(x_TD.data_ptr(), y.data_ptr(), *x_TD.shape, x_TD.stride(0), y.stride(0)))
        return y

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Ops.concat`."""
        a, b = rows_contiguous(a), rows_contiguous(b)
        assert a.shape[:-1] == b.shape[:-1], (a.shape, b.shape)
        y = self._empty(*a.shape[:-1], a.shape[-1] + b.shape[-1])
        nested = a.dim() == 3
        args = abi.ConcatArgs(
            a.data_ptr(),
            b.data_ptr(),
            y.data_ptr(),
            a.shape[0],
            a.shape[1] if nested else 1,
            a.shape[-1],
            b.shape[-1],
            a.stride(0),
            a.stride(1) if nested else 0,
            b.stride(0),
            b.stride(1) if nested else 0,
            y.stride(0),
            y.stride(1) if nested else 0,
        )
        self._do(args)
        return y

    def store(self, cache: KvCache, rows: RowPlan, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        """See `Ops.store`."""
        cache_args, plan_args = cache_struct(cache), plan_struct(rows)
        k_TGH = rows_contiguous(k_TGH)
        v_TGV = rows_contiguous(v_TGV) if v_TGV is not None else None
        args = abi.StoreArgs(
            ctypes.addressof(cache_args),
            ctypes.addressof(plan_args),
            k_TGH.data_ptr(),
            pointer(v_TGV),
            len(k_TGH),
            k_TGH.stride(0),
            k_TGH.stride(1),
            v_TGV.stride(0) if v_TGV is not None else 0,
            v_TGV.stride(1) if v_TGV is not None else 0,
        )
        self._do(args, cache_args, plan_args, cache, rows)

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
        q_TNH = rows_contiguous(q_TNH)
        num_rows, heads, _ = q_TNH.shape
        y = self._empty(num_rows, heads, spec.value_dim)
        cache_args, plan_args = cache_struct(cache, spec.value_dim), plan_struct(rows)
        args = abi.AttentionArgs(
            ctypes.addressof(cache_args),
            ctypes.addressof(plan_args),
            q_TNH.data_ptr(),
            pointer(sinks_N),
            pointer(chosen_TK),
            y.data_ptr(),
            num_rows,
            heads,
            q_TNH.stride(0),
            q_TNH.stride(1),
            heads * spec.value_dim,
            spec.value_dim,
            spec.window or 0,
            0 if chosen_TK is None else chosen_TK.shape[1],
            spec.scale,
        )
        self._do(args, cache_args, plan_args, cache, rows, sinks_N)
        return y

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        """See `Ops.layer_norm`."""
        x_TD = rows_contiguous(x_TD)
        y = self._empty(*x_TD.shape)
        pointers = x_TD.data_ptr(), weight_D.data_ptr(), bias_D.data_ptr(), y.data_ptr()
        self._do(abi.LayerNormArgs(*pointers, *x_TD.shape, x_TD.stride(0), y.stride(0), eps))
        return y

    def select(self, q_TIJ: Tensor, weights_TI: Tensor, cache: KvCache, rows: RowPlan, top_k: int) -> Tensor:
        """See `Ops.select`."""
        q_TIJ, weights_TI = rows_contiguous(q_TIJ), rows_contiguous(weights_TI)
        chosen = self._empty(len(q_TIJ), top_k, dtype=torch.int32)
        cache_args, plan_args = cache_struct(cache), plan_struct(rows)
        args = abi.SelectArgs(
            ctypes.addressof(cache_args),
            ctypes.addressof(plan_args),
            q_TIJ.data_ptr(),
            weights_TI.data_ptr(),
            chosen.data_ptr(),
            *weights_TI.shape,
            top_k,
            *q_TIJ.stride()[:2],
            weights_TI.stride(0),
        )
        self._do(args, cache_args, plan_args, cache, rows)
        return chosen

    def lightning(
        self,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
        *,
        reverse: bool = False,
    ) -> Tensor:
        """See `Ops.lightning`; `reverse` is the scan of gradients that mohist.h describes."""
        q_TNH, k_TNH, v_TNV = map(rows_contiguous, (q_TNH, k_TNH, v_TNV))
        y = self._empty(*v_TNV.shape)
        plan_args = plan_struct(rows)
        args = abi.LightningArgs(
            cache.states.data_ptr(),
            ctypes.addressof(plan_args),
            q_TNH.data_ptr(),
            k_TNH.data_ptr(),
            v_TNV.data_ptr(),
            decays_N.data_ptr(),
            y.data_ptr(),
            *q_TNH.shape,
            v_TNV.shape[2],
            cache.block_size,
            *q_TNH.stride()[:2],
            *k_TNH.stride()[:2],
            *v_TNV.stride()[:2],
            reverse,
        )
        self._do(args, plan_args, cache, rows, decays_N)
        return y

    def route(self, logits_TE: Tensor, spec: RouteSpec, *, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Ops.route`."""
        logits_TE = rows_contiguous(logits_TE)
        rows, experts = logits_TE.shape
        chosen = self._empty(rows, spec.top_k, dtype=torch.int32)
        weights = self._empty(rows, spec.top_k)
        args = abi.RouteArgs(
            logits_TE.data_ptr(),
            pointer(bias_E),
            chosen.data_ptr(),
            weights.data_ptr(),
            rows,
            experts,
            spec.top_k,
            spec.num_groups,
            spec.top_groups,
            spec.scoring == "sigmoid",
            spec.group_score == "top2",
            spec.renormalize,
            logits_TE.stride(0),
            spec.scale,
        )
        self._do(args, bias_E)
        return chosen, weights

    def moe(
        self,
        x_TD: Tensor,
        experts_TK: Tensor,
        weights_TK: Tensor,
        experts: ExpertWeights,
        *,
        residual: Tensor | None = None,
        gate_up: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.moe`; `gate_up` [T*K, 2F] takes what `NativeGradients.moe` wants to know."""
        x_TD = rows_contiguous(x_TD)
        assert experts_TK.is_contiguous(), experts_TK.stride()
        assert weights_TK.is_contiguous(), weights_TK.stride()
        y = self._empty(len(x_TD), experts.down[0].out_features)
        structs = [weight_structs(weights) for weights in experts.matrices]
        args = abi.MoeArgs(
            x_TD.data_ptr(),
            experts_TK.data_ptr(),
            weights_TK.data_ptr(),
            *(ctypes.addressof(struct) for struct in structs),
            *map(pointer, experts.biases or (None, None, None)),
            pointer(residual),
            y.data_ptr(),
            pointer(gate_up),
            len(x_TD),
            len(experts.gate),
            experts_TK.shape[1],
            x_TD.stride(0),
            residual.stride(0) if residual is not None else 0,
            y.stride(0),
            activation_struct(experts.activation),
        )
        self._do(args, *structs, experts.biases)
        return y

    def logprobs(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None = None,
        *,
        chunk: int,
        logits_TV: Tensor | None = None,
    ) -> TokenScores:
        """See `Ops.logprobs`; `logits_TV` is room for the logits of a chunk, and holds those of the last."""
        assert targets_T.dtype == torch.int32, targets_T.dtype
        logprobs_T, entropies_T = self._empty(len(x_TD)), self._empty(len(x_TD))
        if logits_TV is None:
            logits_TV = self._empty(min(chunk, len(x_TD)), head.out_features)
        for first in range(0, len(x_TD), chunk):
            x, end = x_TD[first : first + chunk], min(first + chunk, len(x_TD))
            self._linear(x, (head,), logits_TV, None, None)
            args = abi.LogprobsArgs(
                logits_TV.data_ptr(),
                targets_T[first:end].data_ptr(),
                logprobs_T[first:end].data_ptr(),
                entropies_T[first:end].data_ptr(),
                len(x),
                head.out_features,
                logits_TV.stride(0),
                *distribution(params),
            )
            self._do(args, targets_T)
        return TokenScores(logprobs_T, entropies_T)

    def sample_into(self, logits_TV: Tensor, buffers: SampleBuffers) -> None:
        """Draw a token for every row of `logits_TV` as `buffers` says (see `Ops.sample`)."""
        rows, vocab = logits_TV.shape
        assert rows <= buffers.rows, (rows, buffers.rows)
        args = abi.SampleArgs(
            logits_TV.data_ptr(),
            ctypes.addressof(buffers.params),
            buffers.tokens.data_ptr(),
            buffers.logprobs.data_ptr(),
            buffers.sampled_logprobs.data_ptr(),
            buffers.top_tokens.data_ptr(),
            buffers.top_logprobs.data_ptr(),
            rows,
            vocab,
            logits_TV.stride(0),
            buffers.top_tokens.shape[1],
        )
        self._do(args, buffers)

    def sample(self, logits_TV: Tensor, rows: Sequence[SampleRow]) -> SampledRows:
        """See `Ops.sample`."""
        most = min(max(row.params.top_logprobs for row in rows), logits_TV.shape[1])
        buffers = SampleBuffers(len(rows), most)
        buffers.fill(rows)
        self.sample_into(rows_contiguous(logits_TV), buffers)
        return buffers.read(len(rows))
