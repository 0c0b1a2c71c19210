"""What reading an answer costs: microseconds a token, for each chat format.

    python -m bench.parsers [--tokens 8000]

An answer is written as its format writes it, and comes four characters at a time, about a token: thinking,
plain text, one call with a long string and one with a long list. Decoding tokens to text is not in it.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from mohist.chat.format import ChatFormat, all_formats
from mohist.chat.stream import splitter
from mohist.types import ToolCall

TOOLS = [
    {
        "function": {
            "name": "write",
            "parameters": {"properties": {"text": {"type": "string"}, "list": {"type": "array"}}},
        }
    }
]
TOKEN_CHARS = 4
REPEATS = 3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.parsers", description=__doc__)
    parser.add_argument(
        "--tokens", type=int, default=8000, help="length of each answer (default: %(default)s)"
    )
    tokens = parser.parse_args().tokens
    print("| microseconds a token | thinking | text | string | list |\n|---|---|---|---|---|")
    for name, chat_format in all_formats().items():
        cells = [
            f"{_cost_us(chat_format, text):.1f}" if text else "-" for text in _answers(chat_format, tokens)
        ]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def _answers(chat_format: ChatFormat, tokens: int) -> list[str]:
    """Thinking, text and two calls; empty where the format has none."""
    words = "and " * tokens
    opening, closing = chat_format.thought
    arguments: list[dict[str, Any]] = [
        {"text": words},
        {"list": ["ab"] * (tokens * TOKEN_CHARS // len('"ab", '))},
    ]
    calls = ["", ""]
    if chat_format.calls is not None:
        calls = [
            chat_format.calls.write([ToolCall(name="write", arguments=json.dumps(one))]) for one in arguments
        ]
    return [opening + words + closing, words, *calls]


def _cost_us(chat_format: ChatFormat, text: str) -> float:
    """Of the fastest of some runs."""
    pieces = [text[place : place + TOKEN_CHARS] for place in range(0, len(text), TOKEN_CHARS)]
    best = float("inf")
    for _ in range(REPEATS):
        cut = splitter(chat_format, tools=TOOLS)
        start = time.process_time()
        for piece in pieces:
            cut.feed(piece)
        cut.finish()
        best = min(best, time.process_time() - start)
    return best / len(pieces) * 1e6


if __name__ == "__main__":
    main()
