"""Verbs that look into a server's database: `mohist keys` and `mohist usage`."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mohist.errors import ConfigError

if TYPE_CHECKING:
    from mohist.serve.database import Database

__all__ = ["add_options", "folder", "open_database", "table"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the server keeps its data: the same options as those of `mohist serve`."""
    group = parser.add_argument_group("where", "The same as the server's `data` and `database`.")
    group.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the server's folder (default: mohist in the XDG data folder)",
    )
    group.add_argument(
        "--database",
        default="",
        metavar="URL",
        help="postgresql://USER@HOST/NAME (default: mohist.db in DIR)",
    )


def folder(args: argparse.Namespace) -> Path:
    """The server's folder. Raises ConfigError without the packages of a server."""
    if importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError(f"mohist {args.verb} needs the package sqlalchemy: pip install 'mohist[serve]'")
    from mohist.serve.database import data_folder

    return args.data or data_folder()


@contextmanager
def open_database(args: argparse.Namespace) -> Generator[Database]:
    """The server's database, closed on leaving. Raises ConfigError."""
    data = folder(args)
    from mohist.serve.database import Database

    database = Database.open(args.database or data / "mohist.db")
    try:
        yield database
    finally:
        database.close()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> str:
    """Rows under their heads, in columns; those named in `right` are numbers."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    sides = [">" if head in right else "<" for head in heads]
    cells = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        for row in [heads, *rows]
    ]
    return "\n".join("  ".join(row).rstrip() for row in cells)
