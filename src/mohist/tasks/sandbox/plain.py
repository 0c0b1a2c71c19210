"""Plain Python data as JSON values: what programs and tests may pass to each other. Standard library only.

Numbers, strings, booleans, None and lists stand for themselves; the rest is an object with one key, the name
of its type. Subclasses are passed on as the built-in type that they extend.
"""

from __future__ import annotations

from typing import Any

__all__ = ["decode", "encode"]

_SEQUENCES = (("tuple", tuple), ("set", set), ("frozenset", frozenset))


def encode(value: Any) -> Any:
    """`value` as `json.dumps` takes it. TypeError, naming its type, if it is not plain data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for name, kind in _SEQUENCES:
        if isinstance(value, kind):
            return {name: [encode(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is not plain data")


def decode(value: Any) -> Any:
    """What `encode` was given. ValueError, TypeError or LookupError if `value` is not of its making."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((name, content),) = value.items()
    if name == "dict":
        return {decode(key): decode(item) for key, item in content}
    if name == "bytes":
        return bytes.fromhex(content)
    if name == "complex":
        return complex(*content)
    return dict(_SEQUENCES)[name](decode(item) for item in content)
