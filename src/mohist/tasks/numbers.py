"""Numbers as people and models write them, read exactly."""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["parse_number", "parse_quantity"]

MAX_CHARACTERS = 1000
"""Longer texts are no number."""
MAX_EXPONENT = 400
"""Larger powers of ten, up or down, are no number: exact arithmetic would take forever on 1e999999999."""

_DECIMAL = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_POWER = r"\s?(?:[eE]|(?:\*|×|\\times|\\cdot)\s?10(?:\^|\*\*))(?P<exponent>[-+]?[0-9]+)"
_QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)\s?(?P<currency>[€£¥￥₩₹]?)\s?(?P<number>{_DECIMAL})"
    rf"(?:{_POWER}|\s?/\s?(?P<divisor>{_DECIMAL}))?(?P<unit>.*)",
    re.DOTALL,
)
_FRACTION = re.compile(r"(?<![0-9])\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_MARKUP = re.compile(r"\\[,;:! ]|\\(?:left|right|displaystyle|mathrm|text|rm)(?![A-Za-z])|[${}]")


def parse_number(text: str) -> Fraction | None:
    r"""The value of `text` if it is a number and nothing else.

    Understood are 1,234.5, -3/4, \frac{3}{4}, 2e-3, 6.02 \times 10^{23}, 50 % (which is 1/2), with $ around.
    """
    quantity = parse_quantity(text)
    if quantity is None:
        return None
    value, unit = quantity
    return {"": value, "%": value / 100}.get(unit)


def parse_quantity(text: str) -> tuple[Fraction, str] | None:
    """The number that `text` starts with, and the unit that is the rest of it, without spaces or backslashes.

    A currency sign before the number counts as the unit; a dollar sign does not count, being LaTeX's too.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = _MARKUP.sub("", _FRACTION.sub(r"\1/\2", text.replace("−", "-"))).strip().rstrip(".。")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    exponent, divisor = int(match["exponent"] or 0), _decimal(match["divisor"] or "1")
    if abs(exponent) > MAX_EXPONENT or divisor == 0:
        return None
    value = _decimal(match["number"]) / divisor * Fraction(10) ** exponent
    unit = match["currency"] + re.sub(r"[\s\\]", "", match["unit"])
    return (-value if match["sign"] == "-" else value), unit


def _decimal(text: str) -> Fraction:
    """A decimal with commas between thousands."""
    return Fraction(text.replace(",", ""))
