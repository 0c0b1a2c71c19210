"""A number within a tolerance, with its unit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from mohist.errors import ConfigError
from mohist.tasks.grader import Grader, GraderConfig
from mohist.tasks.numbers import parse_quantity
from mohist.tasks.scoring import RIGHT, Verdict, wrong

__all__ = ["CONFIG", "NumericConfig"]

UNITS: dict[str, tuple[str, Fraction]] = {
    # unit: (what it measures, how many of the first unit it is)
    "": ("ratio", Fraction(1)),
    "%": ("ratio", Fraction(1, 100)),
    "m": ("length", Fraction(1)),
    "km": ("length", Fraction(1000)),
    "dm": ("length", Fraction(1, 10)),
    "cm": ("length", Fraction(1, 100)),
    "mm": ("length", Fraction(1, 1000)),
    "in": ("length", Fraction(254, 10_000)),
    "ft": ("length", Fraction(3048, 10_000)),
    "mi": ("length", Fraction(1_609_344, 1000)),
    "kg": ("mass", Fraction(1)),
    "g": ("mass", Fraction(1, 1000)),
    "mg": ("mass", Fraction(1, 10**6)),
    "t": ("mass", Fraction(1000)),
    "lb": ("mass", Fraction(45_359_237, 10**8)),
    "s": ("time", Fraction(1)),
    "ms": ("time", Fraction(1, 1000)),
    "min": ("time", Fraction(60)),
    "h": ("time", Fraction(3600)),
    "d": ("time", Fraction(86_400)),
    "L": ("volume", Fraction(1)),
    "l": ("volume", Fraction(1)),
    "mL": ("volume", Fraction(1, 1000)),
    "ml": ("volume", Fraction(1, 1000)),
    "m/s": ("speed", Fraction(1)),
    "km/h": ("speed", Fraction(1000, 3600)),
    "J": ("energy", Fraction(1)),
    "kJ": ("energy", Fraction(1000)),
    "Wh": ("energy", Fraction(3600)),
    "kWh": ("energy", Fraction(3_600_000)),
    "W": ("power", Fraction(1)),
    "kW": ("power", Fraction(1000)),
}
"""Units that are converted into each other, exactly. Any other unit equals only itself."""


@dataclass(frozen=True, kw_only=True)
class NumericConfig(GraderConfig):
    """Right is what differs by no more than the larger of the two tolerances, in a unit of the same kind."""

    name: str = "numeric"
    relative_tolerance: float = 0.0
    """Largest difference as a share of the expected number; at least 0."""
    absolute_tolerance: float = 0.0
    """Largest difference, in the expected unit; at least 0."""
    unit_optional: bool = False
    """Whether an answer without a unit is taken to be in the expected one."""

    places = ("boxed", "answer", "number")

    def __post_init__(self) -> None:
        for name in ("relative_tolerance", "absolute_tolerance"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 0")

    def make(self) -> Grader:
        """See `GraderConfig`."""
        return Numeric(self)


class Numeric:
    """Expects a number, or a text of a number and a unit such as "9.81 m/s^2"."""

    def __init__(self, config: NumericConfig) -> None:
        self._config = config

    def fault(self, expected: Any) -> str | None:
        """See `Grader`."""
        fine = not isinstance(expected, bool) and isinstance(expected, (int, float, str))
        return (
            None
            if fine and parse_quantity(str(expected))
            else 'a number, or one with a unit such as "9.8 m/s"'
        )

    def judge(self, answer: str, expected: Any) -> Verdict:
        """See `Grader`."""
        given, right = parse_quantity(answer), parse_quantity(str(expected))
        assert right is not None
        if given is None:
            return wrong(f"not a number: {answer!r:.80}")
        (value, unit), (target, target_unit) = given, right
        if self._config.unit_optional and not unit:
            unit = target_unit
        kind, size = UNITS.get(unit, (unit, Fraction(1)))
        target_kind, target_size = UNITS.get(target_unit, (target_unit, Fraction(1)))
        if kind != target_kind:
            return wrong(f"in {unit or 'no unit'}, not in {target_unit or 'no unit'}")
        relative, absolute = (
            Fraction(self._config.relative_tolerance),
            Fraction(self._config.absolute_tolerance),
        )
        allowed = max(relative * abs(target), absolute)
        if abs(value * size / target_size - target) <= allowed:
            return RIGHT
        return wrong(f"{answer!r:.80}, not {expected}")

    def close(self) -> None:
        """See `Grader`: there is nothing to end."""


CONFIG = NumericConfig
