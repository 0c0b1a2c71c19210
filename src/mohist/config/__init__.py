"""Configuration: frozen keyword-only dataclasses; defaults < a TOML file < `--section.field value`.

A field's type is its rule. Understood are bool, int, float, str, Path, Literal, `X | None`, `tuple[X, ...]`,
`tuple[X, Y]` and nested dataclasses (a TOML table each). TOML has no null, so an absent value is written
`"none"`. A field's documentation is the string literal under it, with the unit.

    @dataclass(frozen=True, kw_only=True)
    class OptimConfig:
        lr: float = 3e-6
        \"\"\"Peak learning rate.\"\"\"

    config = load(RunConfig, path=Path("run.toml"), overrides=["--optim.lr", "1e-5"])

A section of several kinds is a dataclass with a class method `variants() -> dict[str, type]`: its key `name`
picks the subclass that reads the other keys. On the command line `--section.name` comes before such keys.

Checks across fields belong in `__post_init__`, which raises `ConfigError` too.
"""

from __future__ import annotations

from mohist.config.reading import from_dict, load
from mohist.config.writing import FieldDoc, describe, dump_toml, usage

__all__ = ["FieldDoc", "describe", "dump_toml", "from_dict", "load", "usage"]
