"""Where the engine asks guides, which are its callers' code: answers checked, errors contained."""

from __future__ import annotations

from mohist.engine.sequence import Sequence
from mohist.errors import MohistError, RequestError
from mohist.types import Guide

__all__ = ["NOTHING_ALLOWED", "allowed_bits", "guide_on"]

NOTHING_ALLOWED = "no token may come next: what was asked for cannot be written on from here"
"""Why an answer failed whose guide allowed no token that the model can give."""


def allowed_bits(guide: Guide, vocab_size: int) -> bytes | None:
    """What `guide` allows next: a bit for each token, the lowest bit of a byte first; None allows all.

    Raises what the guide raises, and RequestError for a token outside the vocabulary.
    """
    allowed = guide.allowed()
    if allowed is None:
        return None
    size = (vocab_size + 7) // 8
    if isinstance(allowed, bytes):
        return allowed.ljust(size, b"\0")
    if not 0 <= allowed < vocab_size:
        raise RequestError(f"a guide wants token {allowed}, outside the vocabulary 0..{vocab_size - 1}")
    bits = bytearray(size)
    bits[allowed // 8] = 1 << allowed % 8
    return bytes(bits)


def guide_on(sequence: Sequence, vocab_size: int) -> str:
    """Tell a sequence's guide the token it drew, and ask for the next; why the guide failed, or nothing.

    Whatever a guide raises concerns its own answer alone, so this is the one place that catches it all.
    """
    assert sequence.guide is not None
    try:
        sequence.guide.push(sequence.tokens[-1])
        sequence.allowed = allowed_bits(sequence.guide, vocab_size)
    except MohistError as error:
        return str(error)
    except Exception as error:
        return f"the guide failed: {type(error).__name__}: {error}"
    return ""
