"""The PyTorch twin of the kernels: each op of `mohist.kernels.ops` as a close expression, on any device.

Used where no compiler was found or the device is not a CPU, by the tests as an independent opinion, and by
training to recompute what it differentiates. It sums in PyTorch's order, so it does not keep the law of
exactness. Every expression can be differentiated and works in float64 too. Shape suffixes: see `ops`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mohist.kernels.activation import SILU, Activation
from mohist.kernels.ops import LANES, AttentionSpec, ExpertWeights, KvCache, RouteSpec, RowPlan, StateCache
from mohist.kernels.sampling import SampledRows, SampleRow, TokenScores, sample_twin, score_twin
from mohist.kernels.weight import BLOCK, PANEL, Weight, WeightFormat, is_quantized
from mohist.types import SamplingParams

__all__ = ["TorchOps", "places", "route_weights"]


class TorchOps:
    """`Ops` by PyTorch on one device."""

    exact = False

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.name = f"torch {self.device.type}"

    def embed(self, weight: Weight, tokens_T: Tensor) -> Tensor:
        """See `Ops.embed`."""
        if weight.source is not None:
            return F.embedding(tokens_T.long(), weight.source)
        return weight.rows(tokens_T)

    def linear(
        self,
        x_TK: Tensor,
        weights: Sequence[Weight],
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.linear`."""
        y_TN = torch.cat([_adapted(x_TK, weight) for weight in weights], dim=1)
        if bias is not None:
            y_TN = y_TN + bias
        return y_TN if residual is None else residual + y_TN

    def linear_grouped(self, x_TNK: Tensor, weights: Sequence[Weight]) -> Tensor:
        """See `Ops.linear_grouped`."""
        return torch.stack([_matmul(x_TNK[:, n], weight) for n, weight in enumerate(weights)], dim=1)

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
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (weight + shift)
        return y if residual is None else residual + y

    def rope_angles(
        self, positions_T: Tensor, inv_freq_R: Tensor, scales_S: Tensor, *, period: int = 1
    ) -> Tensor:
        """See `Ops.rope_angles`."""
        angles_TR = positions_T.double()[:, None] * inv_freq_R.double()
        scale_T = scales_S[(positions_T // period).clamp(max=len(scales_S) - 1).long()]
        return torch.stack((angles_TR.cos(), angles_TR.sin()), dim=1).float() * scale_T[:, None, None]

    def rope(self, x_TNH: Tensor, cos_sin_T2R: Tensor, *, interleaved: bool, offset: int = 0) -> Tensor:
        """See `Ops.rope`."""
        cos, sin = cos_sin_T2R[:, None, 0], cos_sin_T2R[:, None, 1]
        end = offset + 2 * cos.shape[-1]
        turned = x_TNH[..., offset:end]
        if interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
        else:
            a, b = turned.chunk(2, dim=-1)
        pair = (a * cos - b * sin, b * cos + a * sin)
        turned = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
        return torch.cat((x_TNH[..., :offset], turned, x_TNH[..., end:]), dim=-1)

    def glu(self, gate_up_T2F: Tensor, activation: Activation = SILU) -> Tensor:
        """See `Ops.glu`."""
        gate_TF, up_TF = gate_up_T2F.chunk(2, dim=-1)
        if activation.kind == "silu":
            return F.silu(gate_TF) * up_TF
        if activation.kind == "gelu_tanh":
            return F.gelu(gate_TF, approximate="tanh") * up_TF
        if activation.kind == "sigmoid":
            return gate_TF.sigmoid() * up_TF
        gate_TF, up_TF = gate_TF.clamp(max=activation.limit), up_TF.clamp(-activation.limit, activation.limit)
        return (up_TF + 1) * gate_TF * (activation.steepness * gate_TF).sigmoid()

    def scale(self, x_TD: Tensor, factor: float, *, residual: Tensor | None = None) -> Tensor:
        """See `Ops.scale`."""
        y_TD = x_TD * factor
        return y_TD if residual is None else residual + y_TD

    def silu(self, x_TD: Tensor) -> Tensor:
        """See `Ops.silu`."""
        return F.silu(x_TD)

    def concat(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Ops.concat`."""
        return torch.cat((a, b), dim=-1)

    def store(self, cache: KvCache, rows: RowPlan, k_TGH: Tensor, v_TGV: Tensor | None) -> None:
        """See `Ops.store`."""
        block_T, slot_T = places(cache, rows)
        cache.keys[block_T, :, slot_T // LANES, :, slot_T % LANES] = k_TGH
        if cache.values is not None:
            assert v_TGV is not None
            cache.values[block_T, :, slot_T] = v_TGV

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
        parts = [
            _attend(
                q_TNH[start:end],
                keys_GLH,
                values_GLV,
                rows.positions_T[start:end],
                spec,
                sinks_N,
                None if chosen_TK is None else chosen_TK[start:end],
            )
            for start, end, keys_GLH, values_GLV in _sequences(cache, rows, spec.value_dim)
        ]
        return torch.cat(parts)

    def layer_norm(self, x_TD: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float) -> Tensor:
        """See `Ops.layer_norm`."""
        return F.layer_norm(x_TD, weight_D.shape, weight_D, bias_D, eps)

    def select(self, q_TIJ: Tensor, weights_TI: Tensor, cache: KvCache, rows: RowPlan, top_k: int) -> Tensor:
        """See `Ops.select`."""
        chosen_TK = torch.zeros(len(q_TIJ), top_k, dtype=torch.int32, device=q_TIJ.device)
        for start, end, keys_GLJ, _ in _sequences(cache, rows, 0):
            positions_t = rows.positions_T[start:end]
            if positions_t[-1] < top_k:
                continue
            open_tIL = torch.matmul(q_TIJ[start:end], keys_GLJ[0].T).relu()
            scores_tL = (weights_TI[start:end, :, None] * open_tIL).sum(1)
            later_tL = torch.arange(keys_GLJ.shape[1], device=q_TIJ.device) > positions_t[:, None]
            best_tK = _best(scores_tL.masked_fill(later_tL, float("-inf")), top_k)
            chosen_TK[start:end] = best_tK.sort(dim=1).values.int()
        return chosen_TK

    def lightning(
        self,
        q_TNH: Tensor,
        k_TNH: Tensor,
        v_TNV: Tensor,
        cache: StateCache,
        rows: RowPlan,
        decays_N: Tensor,
    ) -> Tensor:
        """See `Ops.lightning`. Rows of one block at a time; states of this call stay on the tape."""
        states: dict[int, Tensor] = {}
        parts = []
        for start, end, before, block in _block_runs(cache.block_size, rows):
            if before is None:
                state = q_TNH.new_zeros(*q_TNH.shape[1:], v_TNV.shape[2])
            else:
                state = states[before] if before in states else _stored_state(cache, before, v_TNV.shape[2])
            part, states[block] = _recur(
                q_TNH[start:end], k_TNH[start:end], v_TNV[start:end], state.to(q_TNH.dtype), decays_N
            )
            parts.append(part)
        for block, state in states.items():
            _keep_state(cache, block, state.detach())
        return torch.cat(parts)

    def route(self, logits_TE: Tensor, spec: RouteSpec, *, bias_E: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `Ops.route`."""
        choice_TE = _scores(logits_TE, spec)
        if bias_E is not None:
            choice_TE = choice_TE + bias_E
        if spec.top_groups < spec.num_groups:
            members_TgE = choice_TE.unflatten(1, (spec.num_groups, -1))
            best = members_TgE.sort(dim=-1, descending=True, stable=True).values
            score_Tg = best[..., :2].sum(-1) if spec.group_score == "top2" else best[..., 0]
            kept_Tg = _best(score_Tg, spec.top_groups)
            closed_Tg = torch.ones_like(score_Tg, dtype=torch.bool).scatter(1, kept_Tg, False)
            choice_TE = members_TgE.masked_fill(closed_Tg[..., None], float("-inf")).flatten(1)
        experts_TK = _best(choice_TE, spec.top_k)
        return experts_TK.int(), route_weights(logits_TE, experts_TK, spec)

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
        gate, up, down, biases, activation = experts
        y_TKD = x_TD.new_zeros(*experts_TK.shape, x_TD.shape[1])
        for expert in experts_TK.unique().tolist():
            row, k = torch.where(experts_TK == expert)
            gate_up_bias = torch.cat((biases.gate_EF[expert], biases.up_EF[expert])) if biases else None
            gate_up = self.linear(x_TD[row], (gate[expert], up[expert]), bias=gate_up_bias)
            down_bias = biases.down_ED[expert] if biases else None
            y = self.linear(self.glu(gate_up, activation), (down[expert],), bias=down_bias)
            y_TKD = y_TKD.index_put((row, k), y)
        y_TD = (weights_TK[..., None] * y_TKD).sum(1)
        return y_TD if residual is None else residual + y_TD

    def logprobs(
        self,
        x_TD: Tensor,
        head: Weight,
        targets_T: Tensor,
        params: SamplingParams | None = None,
        *,
        chunk: int,
    ) -> TokenScores:
        """See `Ops.logprobs`."""
        pairs = zip(x_TD.split(chunk), targets_T.split(chunk), strict=True)
        scores = [score_twin(self.linear(x, (head,)), targets, params) for x, targets in pairs]
        return TokenScores(*map(torch.cat, zip(*scores, strict=True)))

    def sample(self, logits_TV: Tensor, rows: Sequence[SampleRow]) -> SampledRows:
        """See `Ops.sample`."""
        return sample_twin(logits_TV, rows)


def route_weights(logits_TE: Tensor, experts_TK: Tensor, spec: RouteSpec) -> Tensor:
    """The weights [T, K] of experts already chosen: the part of `Ops.route` that has a gradient."""
    weights_TK = _scores(logits_TE, spec).gather(1, experts_TK.long())
    if spec.renormalize:
        weights_TK = weights_TK / (weights_TK.sum(1, keepdim=True) + 1e-20)
    return weights_TK * spec.scale


def _scores(logits_TE: Tensor, spec: RouteSpec) -> Tensor:
    return logits_TE.sigmoid() if spec.scoring == "sigmoid" else logits_TE.softmax(-1)


def _best(score_TE: Tensor, count: int) -> Tensor:
    """Indices of the largest, ties to the lower index; `topk` leaves that order open."""
    return score_TE.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _adapted(x_TK: Tensor, weight: Weight) -> Tensor:
    """The product with a matrix and with its differences."""
    y_TN = _matmul(x_TK, weight)
    for term in weight.terms:
        rows = slice(term.start, term.end)
        y_TN[rows] += _matmul(_matmul(x_TK[rows], term.a), term.b)
    return y_TN


def _matmul(x_TK: Tensor, weight: Weight) -> Tensor:
    if weight.source is not None:
        return x_TK @ weight.source.T
    if is_quantized(weight.format):
        return _quantized_rows(x_TK, weight.format) @ weight.to_dense().T
    # One small product per panel: slower than one large one, but the weight is read where it lies.
    panels_PKC = weight.data.view(-1, weight.in_features, PANEL).to(x_TK.dtype)
    return torch.matmul(x_TK, panels_PKC).transpose(0, 1).flatten(1)[:, : weight.out_features]


def _quantized_rows(x_TK: Tensor, weight_format: WeightFormat) -> Tensor:
    """x rounded to multiples of a scale per block of 32, as such weights meet it; with the gradient of x."""
    blocks = x_TK.detach().unflatten(1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / (32639 if weight_format == "q8_0" else 127)
    inverse = torch.where(scale > 0, 1 / scale, 0)
    rounded_TK = ((blocks * inverse).round() * scale).flatten(1)
    return rounded_TK + (x_TK - x_TK.detach()) if x_TK.requires_grad else rounded_TK


def places(cache: KvCache, rows: RowPlan) -> tuple[Tensor, Tensor]:
    """Block id and slot in the block of every row."""
    positions_T = rows.positions_T.long()
    block_T = rows.tables_SB[rows.sequence_T.long(), positions_T // cache.block_size]
    return block_T.long(), positions_T % cache.block_size


def _sequences(cache: KvCache, rows: RowPlan, value_dim: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """(first row, end row, keys [G, L, H], values [G, L, V]) of every sequence, up to its last row."""
    sequences, counts = rows.sequence_T.unique_consecutive(return_counts=True)
    start = 0
    for sequence, count in zip(sequences.tolist(), counts.tolist(), strict=True):
        end = start + count
        length = int(rows.positions_T[end - 1]) + 1
        blocks = rows.tables_SB[sequence, : -(-length // cache.block_size)].long()
        keys_GLH = cache.keys[blocks].permute(1, 0, 2, 4, 3).flatten(1, 3)[:, :length]
        if cache.values is None:
            values_GLV = keys_GLH[..., :value_dim]
        else:
            values_GLV = cache.values[blocks].transpose(0, 1).flatten(1, 2)[:, :length]
        yield start, end, keys_GLH, values_GLV
        start = end


def _attend(
    q_tNH: Tensor,
    keys_GLH: Tensor,
    values_GLV: Tensor,
    positions_t: Tensor,
    spec: AttentionSpec,
    sinks_N: Tensor | None,
    chosen_tK: Tensor | None,
) -> Tensor:
    q_GMtH = q_tNH.unflatten(1, (spec.num_kv_heads, -1)).permute(1, 2, 0, 3)
    scores_GMtL = torch.matmul(q_GMtH, keys_GLH[:, None].transpose(2, 3)) * spec.scale
    distance_tL = positions_t[:, None] - torch.arange(keys_GLH.shape[1], device=q_tNH.device)
    hidden_tL = distance_tL < 0
    if spec.window is not None:
        hidden_tL |= distance_tL >= spec.window
    if chosen_tK is not None:
        hidden_tL |= _unchosen(chosen_tK, positions_t, keys_GLH.shape[1])
    scores_GMtL = scores_GMtL.masked_fill(hidden_tL, float("-inf"))
    if sinks_N is None:
        probs_GMtL = scores_GMtL.softmax(-1)
    else:
        sinks_GMt1 = sinks_N.view(spec.num_kv_heads, -1, 1, 1).expand(*scores_GMtL.shape[:3], 1)
        probs_GMtL = torch.cat((scores_GMtL, sinks_GMt1), dim=-1).softmax(-1)[..., :-1]
    return torch.matmul(probs_GMtL, values_GLV[:, None]).permute(2, 0, 1, 3).flatten(1, 2)


def _unchosen(chosen_tK: Tensor, positions_t: Tensor, count: int) -> Tensor:
    """Which of the first `count` positions [t, L] a row does not see, since it has not chosen them."""
    chooses_t = positions_t >= chosen_tK.shape[1]
    places_tK = torch.where(chooses_t[:, None], chosen_tK, 0).long()
    unchosen_tL = torch.ones(len(positions_t), count, dtype=torch.bool, device=chosen_tK.device)
    return unchosen_tL.scatter(1, places_tK, False) & chooses_t[:, None]


def _block_runs(block_size: int, rows: RowPlan) -> Iterator[tuple[int, int, int | None, int]]:
    """(first row, end row, block of the position before, own block) of rows that share a block, in order."""
    positions, sequences = rows.positions_T.tolist(), rows.sequence_T.tolist()
    start = 0
    while start < len(positions):
        table, position = rows.tables_SB[sequences[start]].tolist(), positions[start]
        room = block_size - position % block_size
        end = start + 1
        while end < len(positions) and end - start < room and sequences[end] == sequences[start]:
            end += 1
        before = table[(position - 1) // block_size] if position else None
        yield start, end, before, table[position // block_size]
        start = end


def _recur(
    q_tNH: Tensor, k_tNH: Tensor, v_tNV: Tensor, state_NHV: Tensor, decays_N: Tensor
) -> tuple[Tensor, Tensor]:
    """What rows that follow on a state read, and the state after them, in the closed form of a block."""
    count = len(q_tNH)
    steps_t = torch.arange(count, device=q_tNH.device)
    log_decays_N = decays_N.to(q_tNH.dtype).log()

    def decayed(steps: Tensor) -> Tensor:
        return (log_decays_N.view(-1, *[1] * steps.dim()) * steps).exp()

    distance_tt = (steps_t[:, None] - steps_t).clamp(min=0)
    within_Ntt = decayed(distance_tt) * (steps_t[:, None] >= steps_t)
    q_NtH, k_NtH, v_NtV = (x.transpose(0, 1) for x in (q_tNH, k_tNH, v_tNV))
    own_NtV = (q_NtH @ k_NtH.transpose(1, 2) * within_Ntt) @ v_NtV
    earlier_NtV = decayed(steps_t + 1)[..., None] * (q_NtH @ state_NHV)
    after_NHV = decayed(torch.tensor(count))[..., None, None] * state_NHV
    added_NHV = (k_NtH * decayed(count - 1 - steps_t)[..., None]).transpose(1, 2) @ v_NtV
    return (own_NtV + earlier_NtV).transpose(0, 1), after_NHV + added_NHV


def _stored_state(cache: StateCache, block: int, value_dim: int) -> Tensor:
    """The state [N, H, V] in a block."""
    return cache.states[block].transpose(1, 2).flatten(2)[..., :value_dim]


def _keep_state(cache: StateCache, block: int, state_NHV: Tensor) -> None:
    padded = F.pad(state_NHV, (0, -state_NHV.shape[2] % LANES))
    cache.states[block] = padded.unflatten(2, (-1, LANES)).transpose(1, 2).to(cache.states.dtype)
