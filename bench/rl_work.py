"""A step of reinforcement learning: prompts, lengths of answers and rewards, the same for every peer."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import tokenizers

__all__ = [
    "GROUP_SIZE",
    "PROBLEMS",
    "SFT_SAMPLES",
    "SFT_TOKENS",
    "WORKLOADS",
    "RlWorkload",
    "lengths",
    "question",
    "reward",
    "sft_tokens",
    "single_token_words",
]

PROBLEMS, GROUP_SIZE = 8, 8
"""Problems of a step, and answers to each."""
SFT_SAMPLES, SFT_TOKENS = 16, 256
"""Of a step of supervised fine-tuning; all of a length, so that nobody pads."""
SPREAD = 0.9
"""Standard deviation of the logarithm of skewed lengths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RlWorkload:
    """Sizes in tokens."""

    name: str
    prompt: int
    limit: int
    """The longest answer."""
    mean: int
    """Of all answers; equal to the limit where all are that long."""
    silent: int
    """Every so-many-th group has equal rewards; 0 for none."""
    goal: float
    """How many times as fast as TRL a step is to be."""


WORKLOADS = {
    one.name: one
    for one in (
        RlWorkload(name="uniform", prompt=24, limit=128, mean=128, silent=0, goal=1.7),
        RlWorkload(name="realistic", prompt=256, limit=512, mean=171, silent=3, goal=4.0),
    )
}


def lengths(work: RlWorkload, step: int) -> list[int]:
    """Tokens of the answers of a step, group by group: the same lengths in every step, in another order."""
    count = PROBLEMS * GROUP_SIZE
    if work.mean == work.limit:
        return [work.limit] * count
    low, high = 0.0, float(work.limit)
    for _ in range(50):  # the median that gives the mean
        median = (low + high) / 2
        too_short = sum(_skewed(median, work.limit, count)) < work.mean * count
        low, high = (median, high) if too_short else (low, median)
    found = _skewed(low, work.limit, count)
    random.Random(step).shuffle(found)
    return found


def _skewed(median: float, limit: int, count: int) -> list[int]:
    """Quantiles of a log-normal distribution, cut off at the limit."""
    normal = NormalDist()
    quantiles = (median * math.exp(SPREAD * normal.inv_cdf((i + 0.5) / count)) for i in range(count))
    return [min(limit, max(1, round(value))) for value in quantiles]


def reward(work: RlWorkload, problem: int, sample: int) -> float:
    """Of the `sample`-th answer to the `problem`-th problem since the beginning: right every second time."""
    return 1.0 if work.silent and problem % work.silent == 0 else float(sample % 2)


def sft_tokens(vocab_size: int, index: int) -> list[int]:
    """The tokens of a sample."""
    draw = random.Random(index)
    return [draw.randrange(vocab_size) for _ in range(SFT_TOKENS)]


def question(words: list[str], work: RlWorkload, problem: int) -> str:
    """A text of `work.prompt` words, each of which is a token; new for every problem."""
    draw = random.Random(problem)
    return "".join(draw.choice(words) for _ in range(work.prompt))


def single_token_words(folder: str) -> list[str]:
    """Words with a space before them that are one token each, whatever their neighbours are."""
    backend = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    texts = sorted(text.replace("\u0120", " ") for text in backend.get_vocab())
    words = [text for text in texts if re.fullmatch(r" (w[0-9]+|[a-z]{3,8})", text)]
    return [word for word in words if len(backend.encode(word, add_special_tokens=False).ids) == 1]
