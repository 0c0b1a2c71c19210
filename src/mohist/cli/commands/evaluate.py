"""`mohist evaluate`: how good a model is at a task, how sure that is, and whether another one is better."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from mohist.cli import options
from mohist.cli.terminal import Status
from mohist.errors import ConfigError

if TYPE_CHECKING:
    from mohist.evaluate.evaluate import TaskEvaluateConfig
    from mohist.evaluate.evaluation import Evaluation

SUMMARY = "measure a model on a task, and compare it with another"
EXAMPLES = """\
  mohist evaluate --task.name arithmetic
  mohist evaluate runs/b/model --task.name countdown --num-samples 16 --show 3
  mohist evaluate runs/b/model --against runs/a/model --config task.toml
  mohist evaluate runs/a/model --task.name countdown --output a.json
  mohist evaluate runs/b/model --task.name countdown --against a.json
  mohist evaluate --keys
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.usage = f"{parser.prog} [MODEL] [--config FILE] [--key VALUE]... [options]"
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML with the keys that --keys lists")
    parser.add_argument("--keys", action="store_true", help="list every key, and stop")
    parser.add_argument(
        "--against", metavar="MODEL", help="compare with this model, or with FILE.json of --output"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="show the N problems that went worst"
    )
    options.add_loading(parser)
    parser.set_defaults(overrides=[])


def run(args: argparse.Namespace) -> int:
    """Ask, and print what it amounts to."""
    from mohist.config import load, usage
    from mohist.evaluate.compare import compare
    from mohist.evaluate.evaluate import TaskEvaluateConfig
    from mohist.evaluate.tables import comparison_text, drill_down, summary_table

    if args.keys:
        print(usage(TaskEvaluateConfig))
        return 0
    model, overrides = options.DEFAULT_MODEL, args.overrides
    if overrides and not overrides[0].startswith("--"):
        model, *overrides = overrides
    config = load(TaskEvaluateConfig, path=args.config, overrides=overrides)
    evaluations = measured(model, config, args)
    print(summary_table(evaluations))
    for evaluation in evaluations[:1] if args.show else ():
        print(f"\n{drill_down(evaluation, args.show)}")
    if args.output is not None:
        text = json.dumps([one.to_json() for one in evaluations], ensure_ascii=False, indent=2)
        args.output.write_text(text + "\n", encoding="utf-8")
    if args.against is not None:
        others = {one.title: one for one in before(args.against, config, args)}
        pairs = [(one, others[one.title]) for one in evaluations if one.title in others]
        if not pairs:
            raise ConfigError(f"--against {args.against}: it was asked in other ways: {', '.join(others)}")
        for ours, theirs in pairs:
            print(f"\n{comparison_text(compare(ours, theirs))}")
    sys.stdout.flush()
    return 0


def before(against: str, config: TaskEvaluateConfig, args: argparse.Namespace) -> list[Evaluation]:
    """The other model's evaluations: from a file that --output wrote, or asked now."""
    from mohist.evaluate.evaluation import Evaluation

    if not against.endswith(".json"):
        return measured(against, config, args)
    try:
        data = json.loads(Path(against).read_text(encoding="utf-8"))
        return [Evaluation.from_json(one) for one in data]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--against {against}: not a file that --output wrote: {error}") from error


def measured(model: str, config: TaskEvaluateConfig, args: argparse.Namespace) -> list[Evaluation]:
    """Load a model and ask it, saying on standard error how far that is and what it cost."""
    from mohist.evaluate.evaluate import evaluate

    args.model = model
    with closing(config.task.make()) as task:
        llm = options.load_llm(args)
        with Status(f"evaluating {model}") as status:
            evaluations = evaluate(
                llm, task, config, thinking=config.thinking, progress=told(status.say, model)
            )
    for one in evaluations:
        print(f"{model}, {one.title}: {one.cost.line()}", file=sys.stderr)
    return evaluations


def told(say: Callable[[str], None], model: str) -> Callable[[str, int, int], None]:
    """What `evaluate` calls with its progress."""
    return lambda title, done, total: say(f"evaluating {model}, {title}: {done} of {total}")
