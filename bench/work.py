"""The work that is measured: the same for every peer, and new in every run, so that no cache knows it."""

from __future__ import annotations

import random

__all__ = [
    "DECODE_TOKENS",
    "FORMATS",
    "PREFILL_TOKENS",
    "PROMPT_TOKENS",
    "SHARED_TOKENS",
    "batch_lengths",
    "batch_prompts",
    "fresh_tokens",
]

FORMATS = ("q4_1", "q8_0", "f32")
"""What both Mohist and llama.cpp run; Mohist also runs bf16."""
PROMPT_TOKENS, DECODE_TOKENS = 16, 64
PREFILL_TOKENS = 512
SEQUENCES, SHARED_TOKENS, OWN_TOKENS = 32, 64, 8
LEAST_NEW_TOKENS, MOST_NEW_TOKENS = 32, 256


def fresh_tokens(count: int, seed: int) -> list[int]:
    """A prompt of ordinary tokens that no cache has seen, the same for every peer."""
    draw = random.Random(seed * 1_000_003 + count)
    return [draw.randrange(1_000, 40_000) for _ in range(count)]


def batch_prompts(seed: int, sequences: int = SEQUENCES) -> list[list[int]]:
    """Prompts with a shared prefix of SHARED_TOKENS and a few tokens of their own."""
    prefix = fresh_tokens(SHARED_TOKENS, seed)
    return [prefix + fresh_tokens(OWN_TOKENS, 1000 * seed + i) for i in range(sequences)]


def batch_lengths(sequences: int = SEQUENCES) -> list[int]:
    """How many new tokens each sequence gets: evenly spread from the least to the most."""
    width = MOST_NEW_TOKENS - LEAST_NEW_TOKENS
    return [LEAST_NEW_TOKENS + width * i // (sequences - 1) for i in range(sequences)]
