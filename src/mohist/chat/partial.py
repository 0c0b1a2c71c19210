"""Tags at the end of a text that is still growing."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["partial_tag"]


def partial_tag(text: str, tags: Sequence[str]) -> int:
    """Length of the longest end of `text` that one of `tags` begins with, without being the whole tag."""
    longest = min(len(text), max(map(len, tags), default=1) - 1)
    ends = (text[-n:] for n in range(longest, 0, -1))
    return next((len(end) for end in ends for tag in tags if len(tag) > len(end) and tag.startswith(end)), 0)
