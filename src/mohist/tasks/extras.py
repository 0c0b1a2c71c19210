"""Packages that only some tasks need."""

from __future__ import annotations

import importlib.util

from mohist.errors import TaskError

__all__ = ["need"]


def need(module: str, extra: str, what: str) -> None:
    """TaskError, which says how to install it, if `module` cannot be imported; it is not imported here."""
    if importlib.util.find_spec(module) is None:
        raise TaskError(f"{what} needs the package {module}: pip install 'mohist[{extra}]'")
