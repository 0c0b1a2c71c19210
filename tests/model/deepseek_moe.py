"""DeepSeek's first mixture of experts in plain PyTorch, since transformers has no class for it.

From the published equations (DeepSeekMoE, arXiv 2401.06066, equations 3 to 8): a pre-norm decoder with rotary
grouped-query attention; after the first dense layers, h' = u + shared(u) + sum of g_i expert_i(u) over the
top-k softmax scores g. Modules are named as the released checkpoints name their tensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def linear(rows: int, columns: int) -> nn.Linear:
    return nn.Linear(columns, rows, bias=False)


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


def turn(x_NTH: Tensor, theta: float) -> Tensor:
    """Rotate entry i with entry i + H/2, position t by t * theta^(-2i/H)."""
    half = x_NTH.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half) / half)
    angles_TH = torch.arange(x_NTH.shape[-2])[:, None] * frequencies
    a, b = x_NTH.split(half, dim=-1)
    cos, sin = angles_TH.cos(), angles_TH.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.heads, self.groups, self.theta = (
            c["num_attention_heads"],
            c["num_key_value_heads"],
            c["rope_theta"],
        )
        hidden = c["hidden_size"]
        head_dim = hidden // self.heads
        self.q_proj, self.o_proj = linear(hidden, hidden), linear(hidden, hidden)
        self.k_proj, self.v_proj = (linear(self.groups * head_dim, hidden) for _ in range(2))

    def forward(self, x_TD: Tensor) -> Tensor:
        def heads(projection: nn.Linear, count: int) -> Tensor:
            return projection(x_TD).unflatten(-1, (count, -1)).transpose(0, 1)

        repeats = self.heads // self.groups
        q = turn(heads(self.q_proj, self.heads), self.theta)
        k = turn(heads(self.k_proj, self.groups), self.theta).repeat_interleave(repeats, dim=0)
        v = heads(self.v_proj, self.groups).repeat_interleave(repeats, dim=0)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        future = torch.ones_like(scores, dtype=torch.bool).triu(1)
        out = scores.masked_fill(future, float("-inf")).softmax(-1) @ v
        return self.o_proj(out.transpose(0, 1).flatten(1))


class FeedForward(nn.Module):
    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (
            linear(width, hidden),
            linear(width, hidden),
            linear(hidden, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Moe(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        hidden, width = c["hidden_size"], c["moe_intermediate_size"]
        self.top_k, self.renormalize = c["num_experts_per_tok"], c["norm_topk_prob"]
        self.gate = linear(c["n_routed_experts"], hidden)
        self.experts = nn.ModuleList(FeedForward(hidden, width) for _ in range(c["n_routed_experts"]))
        self.shared_experts = FeedForward(hidden, width * c["n_shared_experts"])

    def forward(self, x_TD: Tensor) -> Tensor:
        scores_TE = self.gate(x_TD).softmax(-1)
        chosen_TK = scores_TE.topk(self.top_k).indices
        gates_TE = scores_TE * torch.zeros_like(scores_TE).scatter(1, chosen_TK, 1.0)
        if self.renormalize:
            gates_TE = gates_TE / gates_TE.sum(-1, keepdim=True)
        routed = sum(gates_TE[:, i, None] * expert(x_TD) for i, expert in enumerate(self.experts))
        return self.shared_experts(x_TD) + routed


class Layer(nn.Module):
    def __init__(self, c: dict[str, Any], index: int) -> None:
        super().__init__()
        hidden, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_layernorm, self.self_attn = RmsNorm(hidden, eps), Attention(c)
        self.post_attention_layernorm = RmsNorm(hidden, eps)
        dense = index < c["first_k_dense_replace"]
        self.mlp = FeedForward(hidden, c["intermediate_size"]) if dense else Moe(c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = RmsNorm(c["hidden_size"], c["rms_norm_eps"])

    def forward(self, tokens_T: Tensor) -> Tensor:
        x = self.embed_tokens(tokens_T)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class DeepseekMoe(nn.Module):
    """What of transformers' interface the tests use."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.model = config, Body(config)
        self.lm_head = linear(config["vocab_size"], config["hidden_size"])

    def forward(self, tokens_1T: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.lm_head(self.model(tokens_1T[0]))
        loss = None if labels is None else F.cross_entropy(logits[:-1], labels[0, 1:])
        return SimpleNamespace(logits=logits[None], loss=loss)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(
            {name: tensor.detach().clone() for name, tensor in self.state_dict().items()},
            folder / "model.safetensors",
        )

    @classmethod
    def from_pretrained(cls, folder: Path) -> DeepseekMoe:
        model = cls(json.loads((folder / "config.json").read_text()))
        model.load_state_dict(
            {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        )
        return model.eval()
