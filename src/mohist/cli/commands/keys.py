"""`mohist keys`: who may use a server."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mohist.cli import server_data
from mohist.errors import ConfigError

if TYPE_CHECKING:
    from mohist.serve.keys import KeyRecord, Keys

SUMMARY = "make, list, limit and revoke the API keys of a server"
EXAMPLES = """\
  mohist keys create "Ann's laptop"
  mohist keys create operator --role admin
  mohist keys create batch --requests-per-minute 60 --tokens-per-minute 100000 --concurrent-requests 4
  mohist keys list
  mohist keys limit 3f9a1c0b77d2 --requests-per-minute 120 --tokens-per-minute none
  mohist keys revoke 3f9a1c0b77d2
"""

LIMITS = {
    "requests_per_minute": "requests that the key may make in a minute",
    "tokens_per_minute": "tokens, of prompts and answers, that it may use in a minute",
    "concurrent_requests": "requests that may run at the same time",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", metavar="NAME", help="whose it is or what it is for")
    create.add_argument(
        "--role",
        choices=["user", "admin"],
        default="user",
        help="an admin manages the server (default: user)",
    )
    for name, text in LIMITS.items():
        create.add_argument(option(name), type=int, metavar="N", help=f"{text}; default: any number")
    create.add_argument(
        "--share-cache",
        action="store_true",
        help="reuse cached prompts across all keys that have this option: faster, and the time to the first "
        "token then tells one of them what the others have asked",
    )
    listing = actions.add_parser("list", help="show all keys, without the secrets, which nobody has")
    listing.add_argument("--json", action="store_true", help="print one JSON object for each key")
    revoke = actions.add_parser("revoke", help="make a key invalid; servers notice within seconds")
    revoke.add_argument("id", metavar="ID", help="as `mohist keys list` shows it")
    limit = actions.add_parser(
        "limit", help="change limits of a key, and leave the others; servers notice within seconds"
    )
    limit.add_argument("id", metavar="ID", help="as `mohist keys list` shows it")
    for name, text in LIMITS.items():
        limit.add_argument(
            option(name),
            type=number,
            default=argparse.SUPPRESS,
            metavar="N",
            help=f"{text}; none: any number",
        )
    for action in (create, listing, revoke, limit):
        server_data.add_options(action)


def run(args: argparse.Namespace) -> int:
    """Do what is asked for."""
    with server_data.open_database(args) as database:
        from mohist.serve.keys import Keys, read_pepper

        keys = Keys(database, read_pepper(server_data.folder(args)))
        if args.action == "create":
            create(args, keys)
        elif args.action == "list":
            show(keys.all(), as_json=args.json)
        elif args.action == "limit":
            change(args, keys)
        elif not keys.revoke(args.id):
            raise ConfigError(f"{args.id!r}: no valid key has this id; `mohist keys list` shows them")
    return 0


def create(args: argparse.Namespace, keys: Keys) -> None:
    """Make a key; the key alone goes to standard output."""
    from mohist.serve.limits import KeyLimits

    limits = KeyLimits(**{name: getattr(args, name) for name in LIMITS})
    record, key = keys.create(args.name, role=args.role, limits=limits, shares_cache=args.share_cache)
    print(f"key {record.id} for {record.name}; it cannot be shown again:", file=sys.stderr, flush=True)
    print(key)


def option(limit: str) -> str:
    """The option for a limit."""
    return f"--{limit.replace('_', '-')}"


def number(text: str) -> int | None:
    """A limit, or `none` for no limit."""
    return None if text == "none" else int(text)


def change(args: argparse.Namespace, keys: Keys) -> None:
    """Change limits, and show the key as it is then. Raises ConfigError."""
    changes = {name: getattr(args, name) for name in LIMITS if name in args}
    if not changes:
        raise ConfigError(f"no limit is named: {', '.join(map(option, LIMITS))} take a number or none")
    record = keys.limit(args.id, changes)
    if record is None:
        raise ConfigError(f"{args.id!r}: no valid key has this id; `mohist keys list` shows them")
    show([record], as_json=False)


def show(records: list[KeyRecord], *, as_json: bool) -> None:
    """List keys."""
    if as_json:
        for record in records:
            print(json.dumps(record.public(), ensure_ascii=False))
        return
    heads = ["ID", "NAME", "ROLE", "MADE", "REVOKED", "REQUESTS/MIN", "TOKENS/MIN", "AT ONCE", "SHARES CACHE"]
    rows = []
    for record in records:
        limits = [getattr(record.limits, name) for name in LIMITS]
        rows.append(
            [
                record.id,
                record.name,
                record.role,
                day(record.created_ms),
                day(record.revoked_ms),
                *("-" if limit is None else str(limit) for limit in limits),
                "yes" if record.shares_cache else "no",
            ]
        )
    print(server_data.table(heads, rows, right=heads[5:8]))


def day(at_ms: int | None) -> str:
    """The day of a time, UTC; `-` for none."""
    return "-" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
