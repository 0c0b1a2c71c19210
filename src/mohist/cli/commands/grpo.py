"""`mohist grpo`: reinforcement learning with answers that can be checked."""

from __future__ import annotations

import argparse

from mohist.cli import configured

SUMMARY = "teach a model by reinforcement learning on a task"
EXAMPLES = """\
  mohist grpo grpo.toml
  mohist grpo --model runs/sft/model --task.name countdown --run.folder runs/countdown
  mohist grpo grpo.toml --policy.algorithm dapo --max-refills 8 --dry-run
  mohist grpo grpo.toml --resume
  mohist grpo --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    configured.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and say where model and report are."""
    from mohist.train.grpo import GrpoConfig, grpo, plan
    from mohist.train.terminal import Terminal

    config = configured.read_config(args, GrpoConfig, plan)
    if config is None:
        return 0
    folder = grpo(config, resume=args.resume, view=Terminal())
    if folder is not None:
        print(f"report {config.run.folder / 'report.html'}\nmodel {folder}")
    return 0
