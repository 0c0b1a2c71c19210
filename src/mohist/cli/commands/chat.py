"""`mohist chat`: talk to a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from mohist.cli import options
from mohist.cli.terminal import history_path, keep_history

SUMMARY = "talk to a model; its thinking is shown apart from its answers"
EXAMPLES = """\
  mohist chat
  mohist chat hf:Qwen/Qwen3-0.6B --think on
  mohist chat model.gguf --system "You answer in Chinese." --temperature 0
  echo "What is a prime number?" | mohist chat
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    options.add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message: how the model is to behave")
    options.add_thinking(parser)
    options.add_sampling(parser)
    options.add_loading(parser)
    options.add_speculation(parser)
    options.add_adapter(parser)
    options.add_prices(parser)


def run(args: argparse.Namespace) -> int:
    """Hold the conversation."""
    prices = options.prices(args)
    llm = options.load_llm(args)
    from mohist.cli.session import Session

    session = Session(
        llm,
        options.sampling(args, llm.defaults),
        system=args.system,
        thinking=options.thinking(args),
        prices=prices,
    )
    if not sys.stdin.isatty():
        session.run(line.rstrip("\n") for line in sys.stdin)
        return 0
    print(f"{llm.summary}\n/help lists the commands; Ctrl-D leaves.", file=sys.stderr)
    with keep_history(history_path()):
        session.run(typed_lines())
    return 0


def typed_lines() -> Iterator[str]:
    """What a person types, turn by turn. A trailing backslash goes on, Ctrl-C drops the turn, Ctrl-D ends."""
    parts: list[str] = []
    while True:
        try:
            line = input("... " if parts else "> ")
        except KeyboardInterrupt:
            parts = []
            print("\n(Ctrl-D or /exit leaves)", file=sys.stderr)
            continue
        except EOFError:
            print()
            return
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts = []
