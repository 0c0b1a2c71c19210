"""Drafters by name, as options and configs ask for them."""

from __future__ import annotations

from mohist.engine.lookup import PromptLookup
from mohist.engine.speculation import Drafter
from mohist.errors import ConfigError

__all__ = ["make_drafter"]


def make_drafter(speculate: str) -> Drafter | None:
    """What guesses tokens: nothing for "off", the text so far for "lookup". Raises ConfigError."""
    if speculate == "off":
        return None
    if speculate == "lookup":
        return PromptLookup()
    raise ConfigError(f"speculate = {speculate!r}: lookup or off")
