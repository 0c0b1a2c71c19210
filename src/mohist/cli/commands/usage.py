"""`mohist usage`: what was used on a server, and what it costs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from mohist.cli import server_data

if TYPE_CHECKING:
    from mohist.serve.usage import UsageSum

SUMMARY = "report the tokens and costs of a server by key, model and day"
EXAMPLES = """\
  mohist usage
  mohist usage --since 2026-11-01 --until 2026-12-01
  mohist usage --by day,key --key 3f9a1c0b77d2
  mohist usage --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--by",
        type=lambda text: text.split(","),
        default=["key", "model"],
        metavar="WHAT,...",
        help="of key, model, day: add up what agrees in these (default: key,model)",
    )
    parser.add_argument("--since", type=day_ms, default=0, metavar="DATE", help="from this day on (UTC)")
    parser.add_argument(
        "--until", type=day_ms, default=2**62, metavar="DATE", help="up to the day before (UTC)"
    )
    parser.add_argument("--key", metavar="ID", help="of one key only")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each group")
    server_data.add_options(parser)


def day_ms(text: str) -> int:
    """`"2026-11-24"` as milliseconds since 1970."""
    try:
        return round(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a date such as 2026-11-24") from error


def run(args: argparse.Namespace) -> int:
    """Print the report."""
    with server_data.open_database(args) as database:
        from mohist.serve.usage import report

        sums = report(database, since_ms=args.since, until_ms=args.until, by=args.by, key_id=args.key)
    if args.json:
        for one in sums:
            print(json.dumps(asdict(one), ensure_ascii=False))
    else:
        print(as_text(sums, args.by))
    return 0


def as_text(sums: list[UsageSum], by: list[str]) -> str:
    """The report for people."""
    numbers = ["CHOICES", "PROMPT", "CACHED", "COMPLETION", "REASONING", "COST"]
    heads = [name.upper() for name in ("day", "key", "model") if name in by]
    rows = []
    for one in sums:
        day = "" if one.day_ms is None else datetime.fromtimestamp(one.day_ms / 1000, UTC).date().isoformat()
        key = one.key_name or one.key_id or "(no key)"
        names = {"DAY": day, "KEY": key, "MODEL": one.model or ""}
        tokens = (
            one.choices,
            one.prompt_tokens,
            one.cached_tokens,
            one.completion_tokens,
            one.reasoning_tokens,
        )
        cost = f"{Decimal(one.cost_nano) / 10**9:.6f}"
        rows.append(
            [*(names[head] for head in heads), *(f"{number:,}" for number in tokens), cost, one.currency]
        )
    return server_data.table([*heads, *numbers, ""], rows, right=numbers)
