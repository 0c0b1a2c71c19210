"""The lightning indexer: which earlier tokens a row attends to (DeepSeek-V3.2-Exp's report, section 2).

Shape suffixes: T packed rows, D hidden, Q query latent, I index heads, J index head dim, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mohist.kernels.ops import IndexSpec, Ops
from mohist.model.attend import Attend
from mohist.model.config import IndexerConfig
from mohist.model.tensors import Matrix, Vector

__all__ = ["Indexer", "index_spec"]

_KEY_EPS = 1e-6
"""Of the keys' norm, whatever the model's own epsilon (so in DeepSeek's code)."""


def index_spec(indexer: IndexerConfig, layer: int) -> IndexSpec:
    """What `attend` is told about a layer's indexer."""
    return IndexSpec(layer=layer, key_dim=indexer.head_dim, top_k=indexer.top_k)


class Indexer(nn.Module):
    """Few cheap heads score all earlier tokens; one key a token serves them all.

    A choice has no gradient, so neither have these tensors: their training has a loss of its own, which is
    not here. Scores are left unscaled, as scales that all of them share change no choice; and the Hadamard
    transform of DeepSeek's code, which serves to quantise, changes no score.
    """

    def __init__(
        self, indexer: IndexerConfig, *, layer: int, hidden_size: int, q_rank: int, ops: Ops
    ) -> None:
        super().__init__()
        self.config, self.ops, self.spec = indexer, ops, index_spec(indexer, layer)
        self.q_up = Matrix(indexer.num_heads * indexer.head_dim, q_rank)
        self.k = Matrix(indexer.head_dim, hidden_size)
        self.k_norm = Vector(indexer.head_dim)
        self.k_norm_bias = Vector(indexer.head_dim)
        self.weigh = Matrix(indexer.num_heads, hidden_size)

    @torch.no_grad()
    def forward(self, x_TD: Tensor, latent_TQ: Tensor, cos_sin_T2R: Tensor, attend: Attend) -> Tensor:
        """Positions that each row attends to, int32 [T, K], as `Ops.select` has them.

        Rope comes first in a head, in halves, though the attention itself may turn neighbours.
        """
        ops, heads = self.ops, self.config.num_heads
        q_TIJ = ops.linear(latent_TQ, (self.q_up.weight(),)).unflatten(1, (heads, -1))
        q_TIJ = ops.rope(q_TIJ, cos_sin_T2R, interleaved=False)
        fused = ops.linear(x_TD, (self.k.weight(), self.weigh.weight()))
        dim = self.config.head_dim
        k_TJ = ops.layer_norm(fused[:, :dim], self.k_norm.value, self.k_norm_bias.value, _KEY_EPS)
        k_T1J = ops.rope(k_TJ[:, None], cos_sin_T2R, interleaved=False)
        return attend.select(self.spec, q_TIJ, fused[:, dim:], k_T1J)
