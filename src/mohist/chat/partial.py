"""Tags at the end of a text that is still growing."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["partial_tag"]


def partial_tag(text: str, tags: Sequence[str]) -> int:
    """Length of the longest end of `text` that one of `tags` begins with, without being the whole tag."""
    longest = 0
    for tag in tags:
        place = text.find(tag[0], max(0, len(text) - len(tag) + 1))
        while place >= 0 and not tag.startswith(text[place:]):
            place = text.find(tag[0], place + 1)
        if place >= 0:
            longest = max(longest, len(text) - place)
    return longest
