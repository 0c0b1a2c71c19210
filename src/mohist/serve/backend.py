"""What stands behind a model's name: a model of this machine, or another server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from mohist.serve.answer import Event
from mohist.serve.ask import Ask

__all__ = ["Backend"]


class Backend(Protocol):
    """Answers asks. `LocalModel` is one."""

    @property
    def name(self) -> str:
        """The model itself, not an alias."""
        ...

    def answer(self, ask: Ask, *, salt: bytes = b"") -> AsyncGenerator[Event]:
        """A `Started`, then the events of all choices; closing the iterator ends the work. Raises ApiError.

        Prompts share cached prefixes only under one `salt`.
        """
        ...

    async def close(self) -> None:
        """Give back threads, connections and memory. Nothing may be asked any more."""
        ...
