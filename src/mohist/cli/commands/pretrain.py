"""`mohist pretrain`: make a language model of text."""

from __future__ import annotations

import argparse

from mohist.cli import configured

SUMMARY = "train a model on text, from random weights or on"
EXAMPLES = """\
  mohist pretrain tiny.toml
  mohist pretrain tiny.toml --optim.optimizer muon --dry-run
  mohist pretrain --model config.json --tokenizer tokenizer --data book.txt --run.folder runs/book
  mohist pretrain tiny.toml --resume
  mohist pretrain --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    configured.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the model is."""
    from mohist.train.pretrain import PretrainConfig, plan, pretrain
    from mohist.train.terminal import Terminal

    config = configured.read_config(args, PretrainConfig, plan)
    if config is None:
        return 0
    view = Terminal(curves=("loss", "held_out_loss"))
    print(pretrain(config, resume=args.resume, view=view))
    return 0
