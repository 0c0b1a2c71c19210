"""What the engine asks of the model's side, and what it tells of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mohist.engine.sequence import Chunk, Outcome

__all__ = ["EngineStats", "Runner"]


class Runner(Protocol):
    """Model, cache and sampler, as the engine needs them."""

    block_size: int
    """Positions in one cache block."""
    num_blocks: int
    max_positions: int
    """Most tokens that prompt and answer may have together."""
    vocab_size: int
    rewinds: bool
    """Whether the rows after a position may be computed anew, with other tokens, as guesses need it."""

    @property
    def adapter_keys(self) -> Mapping[str, bytes]:
        """The adapters that requests may name; equal keys (up to 64 bytes) mean equal adapters."""
        ...

    def add_adapter(self, name: str, folder: Path) -> None:
        """Read an adapter."""
        ...

    def remove_adapter(self, name: str) -> None:
        """Forget one that no unfinished request names."""
        ...

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        """Compute the rows of a step; one outcome for each chunk.

        In each layer a chunk attends after the chunks before it have stored their keys and values: it may
        share blocks that they fill in this very step.
        """
        ...

    def weights_changed(self) -> None:
        """Take note that the model's tensors have new values."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """The engine at this moment, and its counts since it was made."""

    running: int
    waiting: int
    blocks_used: int
    """Held by running sequences; the rest is free, or keeps prefixes for as long as it is not needed."""
    blocks_total: int
    steps: int
    computed_tokens: int
    """Rows computed, those recomputed after a preemption included."""
    generated_tokens: int
    cached_tokens: int
    """Rows that the prefix cache saved when requests were first admitted."""
    preemptions: int
    drafted_tokens: int
    """Guesses of speculation that were computed."""
    accepted_tokens: int
    """Those of them that gave a token."""
