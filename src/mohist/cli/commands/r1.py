"""`mohist r1`: a whole pipeline, from a model that may know nothing to one that reasons."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from mohist.cli import configured
from mohist.errors import ConfigError

SUMMARY = "make a model that reasons, by a recipe: cold start, reinforcement learning, before and after"
EXAMPLES = """\
  mohist r1 quickstart
  mohist r1 quickstart --seed 1 --folder runs/seed-1
  mohist r1 smollm2 --resume
  mohist r1 my-recipe.toml --reinforce.steps 50 --dry-run
  mohist r1 --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    configured.configure(parser)
    parser.usage = (
        f"{parser.prog} RECIPE [--section.field VALUE]... [--resume] [--dry-run] [--keys] [--no-chat]"
    )
    parser.add_argument("--no-chat", action="store_true", help="do not open a chat with the model at the end")


def run(args: argparse.Namespace) -> int:
    """Run the recipe; print what it achieved and cost, and open a chat where a person is watching."""
    from mohist.recipes.outcome import read_outcome
    from mohist.recipes.r1 import R1Config, r1
    from mohist.train.report import write_report
    from mohist.train.terminal import Terminal

    if not args.overrides and not args.keys:
        raise ConfigError(f"r1 takes a RECIPE: {', '.join(_packaged())}, or a TOML file")
    args.overrides[:1] = [_recipe(word) for word in args.overrides[:1]]
    config = configured.read_config(args, R1Config)
    if config is None:
        return 0
    model = r1(config, resume=args.resume, view=Terminal())
    if model is None:
        print(f"stopped; go on with: mohist r1 {args.overrides[0]} --resume", file=sys.stderr)
        return 130
    outcome = read_outcome(config)
    print(outcome.text())
    print(f"\nreport {write_report(config.reinforced('').run.folder)}\nmodel {model}")
    if args.no_chat or not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(f'\ntalk to it: mohist chat {model}\nask it: "{outcome.after[0].results[0].problem.question}"')
        return 0
    from mohist.cli.main import main

    print(f"\nask it, for instance: {outcome.after[0].results[0].problem.question}")
    return main(["chat", str(model)])


def _recipe(word: str) -> str:
    """The path of a recipe that comes with Mohist, where `word` is its name; else `word` itself."""
    if word.startswith("--") or Path(word).exists():
        return word
    packaged = _packaged()
    if word not in packaged and not Path(word).suffix:
        raise ConfigError(f"{word!r}: no such recipe: {', '.join(packaged)}, or a TOML file")
    return str(packaged.get(word, word))


def _packaged() -> dict[str, Path]:
    """The recipes that come with Mohist, by name."""
    return {path.stem: path for path in sorted(Path(str(files("mohist.recipes"))).glob("*.toml"))}
