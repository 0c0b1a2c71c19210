"""How a value that cannot be is refused, in the config of a model."""

from __future__ import annotations

from mohist.errors import ModelError

__all__ = ["require"]


def require(ok: bool, name: str, value: object, expected: str) -> None:
    """Raise ModelError unless `ok`, saying what the value called `name` is and what it must be."""
    if not ok:
        raise ModelError(f"{name} = {value}: it must be {expected}")
