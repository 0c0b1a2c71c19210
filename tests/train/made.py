"""Samples and batches of numbers for tests of the training core."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from mohist.kernels.twin import TorchOps
from mohist.train.batch import Batch, pack
from mohist.types import Sample

VOCAB = 101


def texts(count: int, *, seed: int = 0, longest: int = 40) -> list[Sample]:
    """Random texts in which about two thirds of the tokens count."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        length = draw.randint(2, longest)
        tokens = tuple(draw.randrange(VOCAB) for _ in range(length))
        weights = (0.0, *(float(draw.random() < 0.7) for _ in range(length - 2)), 1.0)
        made.append(Sample(tokens=tokens, weights=weights))
    return made


def answers(groups: int, size: int, *, seed: int = 0, context: int = 11) -> list[Sample]:
    """Answers to prompts, `size` to each, with logprobs and advantages."""
    draw = random.Random(seed)
    made = []
    for _ in range(groups):
        prompt = tuple(draw.randrange(VOCAB) for _ in range(draw.randint(1, context)))
        for _ in range(size):
            answer = tuple(draw.randrange(VOCAB) for _ in range(draw.randint(1, 20)))
            logprobs = (0.0,) * len(prompt) + tuple(draw.uniform(-6, 0) for _ in answer)
            made.append(
                Sample(
                    tokens=prompt + answer,
                    weights=(0.0,) * len(prompt) + (1.0,) * len(answer),
                    num_shared=len(prompt),
                    logprobs=logprobs,
                    advantage=draw.uniform(-2, 2),
                )
            )
    return made


def whole(samples: list[Sample]) -> Batch:
    """All of them in one batch."""
    (batch,) = pack(samples, max_tokens=1_000_000, ops=TorchOps())
    return batch


def noisy(values: Tensor, spread: float = 0.3, seed: int = 0) -> Tensor:
    """Values nearby."""
    return values + spread * torch.randn(values.shape, generator=torch.Generator().manual_seed(seed))
