"""Verbs that read a config: `mohist VERB CONFIG.toml [--section.field value] [--resume] [--dry-run]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mohist.config import dump_toml, load, usage

__all__ = ["configure", "read_config"]

T = TypeVar("T")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what these verbs have in common."""
    parser.usage = f"{parser.prog} [CONFIG.toml] [--section.field VALUE]... [--resume] [--dry-run] [--keys]"
    parser.add_argument("--resume", action="store_true", help="go on with the run in its folder, bit for bit")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved config, memory and time, and stop"
    )
    parser.add_argument("--keys", action="store_true", help="list every key of the config, and stop")
    parser.set_defaults(overrides=[])


def read_config(args: argparse.Namespace, cls: type[T], plan: Callable[[T], str] | None = None) -> T | None:
    """The config to run; None where only its keys, or with --dry-run itself and its `plan`, were to be shown.

    Raises ConfigError.
    """
    if args.keys:
        print(usage(cls))
        return None
    named, overrides = None, args.overrides
    if overrides and not overrides[0].startswith("--"):
        named, *overrides = overrides
    config = load(cls, path=None if named is None else Path(named), overrides=overrides)
    if not args.dry_run:
        return config
    print(dump_toml(config))
    if plan is not None:
        print(plan(config))
    return None
