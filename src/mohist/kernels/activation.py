"""How the gates of a feed-forward open: plain data, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["GELU_TANH", "SIGMOID", "SILU", "Activation"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Activation:
    """What becomes of a gate g and the number u beside it.

    - silu: silu(g) * u (SwiGLU, arXiv 2002.05202)
    - gelu_tanh: gelu(g) * u, GELU in its tanh form (GeGLU, the same paper; Gemma)
    - sigmoid: sigmoid(g) * u (MiniMax's output gate)
    - clamped_silu: (u + 1) * g * sigmoid(steepness * g), g at most and u within +-limit (gpt-oss)
    """

    kind: Literal["silu", "gelu_tanh", "clamped_silu", "sigmoid"]
    steepness: float = 1.0
    limit: float = math.inf


SILU = Activation(kind="silu")
GELU_TANH = Activation(kind="gelu_tanh")
SIGMOID = Activation(kind="sigmoid")
