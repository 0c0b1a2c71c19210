"""What is sampled and what comes back: the records that the engine's runner and the ops exchange.

The definition. With raw logits l of one row:

1. raw logprob of token i: (l_i - m) - log(16-lane sum of exp(l - m)), m the largest.
2. For every seen token, once: the repetition penalty r gives l/r if l > 0, else l*r; for those that the
   answer holds c > 0 times, minus the presence penalty, then fma(-frequency penalty, c, .).
   Tokens that are not allowed get minus infinity. If no other logit is left, the token is -1 and both of its
   logprobs are minus infinity.
3. Temperature 0 takes the largest (lowest id on a tie), with sampled logprob 0. Otherwise l is divided by it.
4. weight w_i = exp(l_i - max). Rank by l, lower id first on a tie. Top-k keeps the first k; of those, top-p
   keeps the shortest head whose weights, added in rank order, reach top_p times their 16-lane sum by id; then
   tokens with w_i < min_p go.
5. Gumbel-max in exponential form: token i waits E_i / w_i with E_i = -ln(1 - v_i), v_i Philox noise under
   the key `seed` at (token, position, sample); the shortest wait wins (lowest id on a tie). argmin E/w
   has the same distribution as argmax(log w + Gumbel), since Gumbel noise is -ln E.
6. sampled logprob: (l_i - max) - log(16-lane sum of w over what was kept).

Scoring a given token, as training does, repeats steps 3, 4 and 6 without penalties and with a temperature
over 0; the token itself counts as kept, as a token that was drawn was. The entropy of what was kept is

    log(sum of w) - (16-lane sum of w * max(l - max, -104), by fma) / (sum of w)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mohist.types import SamplingParams, TopLogprobs

__all__ = ["SampleRow", "SampledRows", "TokenScores", "sample_twin", "score_twin"]


class SampleRow(NamedTuple):
    """How to draw from one row of logits."""

    params: SamplingParams
    sample: int
    position: int
    """Position of the token to draw."""
    seen: Mapping[int, int]
    """Tokens that penalties concern, with how often the answer holds each; empty without penalties."""
    allowed: bytes | None = None
    """Token i may be drawn if bit i % 8 of byte i // 8 is 1; None: any. At least a bit for every logit."""


class SampledRows(NamedTuple):
    """What was drawn, a list entry for every row."""

    tokens: list[int]
    logprobs: list[float]
    sampled_logprobs: list[float]
    top: list[TopLogprobs]


class TokenScores(NamedTuple):
    """What a distribution says about given tokens, in nats."""

    logprobs_T: Tensor
    entropies_T: Tensor
    """Of the whole distribution; no gradient flows through them."""


def sample_twin(logits_TV: Tensor, rows: Sequence[SampleRow]) -> SampledRows:
    """The definition in PyTorch and numpy, where there are no kernels: the same noise, sums in any order."""
    result = SampledRows([], [], [], [])
    for logits_V, row in zip(logits_TV.detach().float().cpu(), rows, strict=True):
        raw_V = logits_V.log_softmax(-1)
        token, sampled_logprob = _draw(logits_V.clone(), row)
        result.tokens.append(token)
        result.logprobs.append(raw_V[token].item() if token >= 0 else -math.inf)
        result.sampled_logprobs.append(sampled_logprob)
        values, ids = raw_V.sort(descending=True, stable=True)
        count = row.params.top_logprobs
        result.top.append(tuple(zip(ids[:count].tolist(), values[:count].tolist(), strict=True)))
    return result


def score_twin(logits_TV: Tensor, targets_T: Tensor, params: SamplingParams | None) -> TokenScores:
    """Logprobs of the targets and entropies, under what `params` sample (None: under the softmax itself)."""
    targets_T1 = targets_T.long()[:, None]
    if params is not None:
        logits_TV = logits_TV / params.temperature
        kept_TV = _kept(logits_TV.detach(), params).scatter(1, targets_T1, True)
        logits_TV = logits_TV.masked_fill(~kept_TV, float("-inf"))
    logprobs_TV = logits_TV.log_softmax(-1)
    surprise_TV = logprobs_TV.detach().clamp(min=torch.finfo(logits_TV.dtype).min)
    entropies_T = -(surprise_TV.exp() * surprise_TV).sum(-1)
    return TokenScores(logprobs_TV.gather(1, targets_T1)[:, 0], entropies_T)


def _kept(logits_TV: Tensor, params: SamplingParams) -> Tensor:
    """Which tokens top-k, top-p and min-p keep, for logits that are divided by the temperature."""
    order_TV = logits_TV.sort(dim=-1, descending=True, stable=True).indices
    weight_TV = (logits_TV - logits_TV.amax(-1, keepdim=True)).exp()
    kept_TV = torch.ones_like(order_TV, dtype=torch.bool)  # by rank
    if params.top_k:
        kept_TV[:, params.top_k :] = False
    if params.top_p < 1:
        ranked_TV = weight_TV.gather(1, order_TV) * kept_TV
        kept_TV &= ranked_TV.cumsum(-1) - ranked_TV < params.top_p * ranked_TV.sum(-1, keepdim=True)
    by_id_TV = torch.empty_like(kept_TV).scatter_(1, order_TV, kept_TV)
    return by_id_TV & (weight_TV >= params.min_p)


def _draw(logits_V: Tensor, row: SampleRow) -> tuple[int, float]:
    """The token and its logprob under what was sampled."""
    p = row.params
    if row.seen:
        ids, counts = torch.tensor(list(row.seen)), torch.tensor(list(row.seen.values()))
        seen = logits_V[ids]
        seen = torch.where(seen > 0, seen / p.repetition_penalty, seen * p.repetition_penalty)
        seen -= (counts > 0) * p.presence_penalty + counts * p.frequency_penalty
        logits_V[ids] = seen
    if row.allowed is not None:
        bits = np.unpackbits(np.frombuffer(row.allowed, np.uint8), count=len(logits_V), bitorder="little")
        logits_V[torch.from_numpy(bits == 0)] = -math.inf
        if not logits_V.max() > -math.inf:
            return -1, -math.inf
    if p.temperature == 0:
        return int(logits_V.argmax()), 0.0
    logits_V /= p.temperature
    weight_V = (logits_V - logits_V.max()).exp()
    weight_V[~_kept(logits_V[None], p)[0]] = 0
    noise_V = torch.from_numpy(_philox(len(logits_V), row.position, row.sample, p.seed))
    token = int((-torch.log1p(-noise_V) / weight_V).argmin())
    return token, (weight_V[token] / weight_V.sum()).log().item()


def _philox(count: int, position: int, sample: int, seed: int) -> np.ndarray:
    """Philox4x32-10 noise in (0, 1) for tokens 0..count-1 (Salmon et al., SC 2011; see elementary.h)."""
    ids = np.arange(count, dtype=np.uint64)
    low = np.uint64(0xFFFFFFFF)
    c = [ids // 32 * 8 + ids % 8, *(np.full(count, word, np.uint64) for word in (position, sample, 0))]
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        k0, k1 = (np.uint64(key) for key in keys)
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ k0, p1 & low, (p0 >> np.uint64(32)) ^ c[3] ^ k1, p0 & low]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    words = np.choose((ids % 32 // 8).astype(np.int64), c)
    uniform = ((words >> np.uint64(1)).astype(np.float32) + np.float32(0.5)) * np.float32(2**-31)
    return np.minimum(uniform, np.float32(1 - 2**-24))
