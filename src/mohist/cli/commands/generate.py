"""`mohist generate`: one prompt, one or more answers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from mohist.cli import options
from mohist.cli.terminal import Pieces, on_interrupt
from mohist.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from mohist.reply import Answer, Reply
    from mohist.types import Message

SUMMARY = "answer one prompt"
EXAMPLES = """\
  mohist generate "Write a limerick about logic."
  mohist generate hf:Qwen/Qwen3-0.6B "What is 17 * 23?" --temperature 0 --max-tokens 200
  mohist generate --raw "Once upon a time" --num-samples 4 --seed 7
  mohist generate model.gguf - --json < question.txt
  mohist generate "A person, as JSON." --json-schema person.schema.json --thinking-budget 500
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.usage = f"{parser.prog} [MODEL] PROMPT [options]"
    parser.add_argument(
        "words",
        metavar="[MODEL] PROMPT",
        nargs="+",
        help=f"the prompt, or - for standard input; before it the model (default: {options.DEFAULT_MODEL})",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message: how the model is to behave")
    parser.add_argument(
        "--raw", action="store_true", help="continue the prompt as it is, without a chat template"
    )
    options.add_thinking(parser)
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="answers to the same prompt")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object a line, with tokens and logprobs"
    )
    parser.add_argument(
        "--top-logprobs", type=int, metavar="N", help="with --json: the N likeliest at each token"
    )
    options.add_sampling(parser)
    options.add_form(parser)
    options.add_loading(parser)
    options.add_speculation(parser)
    options.add_adapter(parser)
    options.add_prices(parser)


def run(args: argparse.Namespace) -> int:
    """Answer; the text goes to standard output, the cost to standard error."""
    if len(args.words) > 2:
        raise ConfigError(f"generate takes [MODEL] PROMPT, not {len(args.words)} words: quote the prompt")
    if args.raw and (args.system is not None or args.think != "auto"):
        raise ConfigError(
            "--raw uses no chat template, so --system and --think have no place: drop one of them"
        )
    if args.top_logprobs is not None and not args.json:
        raise ConfigError(f"--top-logprobs {args.top_logprobs}: text has no place for them; add --json")
    if args.num_samples < 1:
        raise ConfigError(f"--num-samples {args.num_samples}: at least 1")
    *model, prompt = args.words
    args.model = model[0] if model else options.DEFAULT_MODEL
    prices = options.prices(args)
    form = options.form(args)
    text = sys.stdin.read() if prompt == "-" else prompt
    llm = options.load_llm(args)
    params = options.sampling(args, llm.defaults)
    tokens = (
        llm.encode(text) if args.raw else llm.render(conversation(text, args.system), options.thinking(args))
    )
    if args.num_samples == 1 and not args.json:
        reply = llm.stream(tokens, params, raw=args.raw, form=form)
        show(reply)
        rate, cost, answers = reply.tokens_per_second, reply.cost, [reply.answer]
    else:
        answers, cost = llm.generate([tokens], params, num_samples=args.num_samples, raw=args.raw, form=form)
        rate = cost.completion_tokens / cost.seconds
        for index, answer in enumerate(answers):
            print(as_json(answer) if args.json else as_text(answer, index, args.num_samples))
    sys.stdout.flush()
    print(f"{rate:.1f} tokens/s, {cost.line(prices)}", file=sys.stderr)
    failed = [answer.completion.error for answer in answers if answer.completion.error]
    if failed:
        raise RequestError(f"{len(failed)} of {len(answers)} answers failed: {failed[0]}")
    return 0


def conversation(text: str, system: str | None) -> list[Message]:
    """The messages that ask `text`."""
    from mohist.types import Message

    question = Message(role="user", content=text)
    return [question] if system is None else [Message(role="system", content=system), question]


def show(reply: Reply) -> None:
    """Print an answer as it comes; Ctrl-C ends it early."""
    pieces = Pieces(sys.stdout)
    with on_interrupt(reply.stop):
        for delta in reply:
            pieces.show(delta.kind, delta.text)
    pieces.end()


def as_text(answer: Answer, index: int, count: int) -> str:
    """One of several answers, for people."""
    thinking = f"[thinking]\n{answer.message.reasoning}\n[answer]\n" if answer.message.reasoning else ""
    return f"--- sample {index + 1} of {count} ---\n{thinking}{answer.message.content}"


def as_json(answer: Answer) -> str:
    """One answer with everything that the engine said about it, on one line."""
    from dataclasses import asdict

    row = {"content": answer.message.content, "reasoning": answer.message.reasoning}
    return json.dumps(row | asdict(answer.completion), ensure_ascii=False)
