"""`mohist replay`: give an answer again from its receipt, and compare bit by bit."""

from __future__ import annotations

import argparse
from pathlib import Path

from mohist.cli import options
from mohist.cli.terminal import Status
from mohist.errors import RequestError

SUMMARY = "give an answer again from its receipt: identical, or where it differs"
EXAMPLES = """\
  mohist replay receipt.json
  mohist replay answer.json --model ~/models/SmolLM2.gguf --threads 1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "receipt", metavar="FILE", type=Path, help="a receipt, or a server's answer that has one, as JSON"
    )
    parser.add_argument(
        "--model", metavar="SOURCE", help="where the weights are here (default: where the receipt had them)"
    )
    parser.add_argument("--quantize", choices=options.QUANTIZED, help="as the model was loaded")
    parser.add_argument("--adapter", metavar="DIR", type=Path, help="where the receipt's adapter is here")
    parser.add_argument("--threads", metavar="N", type=int, help="changes no bit; default: physical cores")


def run(args: argparse.Namespace) -> int:
    """0 if the answer came out identical, 1 if not."""
    from mohist.llm import LLM
    from mohist.receipt import Receipt

    receipt = Receipt.from_json(options.json_file(args.receipt))
    source = args.model or receipt.model
    if (receipt.adapter is None) != (args.adapter is None):
        raise RequestError(
            f"--adapter = {args.adapter}: the receipt has adapter {receipt.adapter!r}; say where that is"
        )
    adapters = {} if receipt.adapter is None else {receipt.adapter: args.adapter}
    with Status(f"loading {source}") as status:
        llm = LLM.load(
            source,
            threads=args.threads,
            quantize=args.quantize,
            adapters=adapters,
            progress=status.progress,
        )
    difference = receipt.replay(llm)
    if difference is None:
        count = sum(len(answer.tokens) for answer in receipt.answers)
        print(f"identical: {count} tokens and their logprobs, to the last bit ({llm.fingerprint})")
        return 0
    spell = llm.chat.tokenizer.decode
    print(f"different: answer {difference.answer}, token {difference.index}")
    for name, one in (("receipt", difference.expected), ("replay", difference.found)):
        said = "nothing" if one is None else f"{one[0]} {spell([one[0]])!r}, logprob {one[1]!r}"
        print(f"  {name:8s} {said}")
    if receipt.doubt is not None:
        print(f"  this may be why: {receipt.doubt}")
    return 1
