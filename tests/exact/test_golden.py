"""Answers that were given once are given for ever, on every machine: their digests are kept beside this file.

A digest that changes is a definition that has changed. Where that is meant, say so in docs/numerics.md and
docs/log.md, and run `python -m tests.exact.test_golden` to write the new ones.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mohist.types import Request, SamplingParams
from tests.exact.models import MODELS, Model
from tests.exact.requests import SHARED, alone

KEPT = Path(__file__).with_name("golden.json")
REQUESTS = [
    Request(prompt=SHARED[:50], params=SamplingParams(max_tokens=30, seed=7, top_logprobs=5)),
    Request(prompt=SHARED[:5], params=SamplingParams(max_tokens=30, temperature=0)),
    Request(
        prompt=SHARED[:20],
        params=SamplingParams(
            max_tokens=30,
            temperature=0.8,
            top_k=20,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.2,
            presence_penalty=0.2,
            frequency_penalty=0.1,
        ),
    ),
]


def digest(model: Model) -> str:
    """Of all tokens and logprobs; `repr` of a float is exact."""
    answers = [alone(model, request) for request in REQUESTS]
    told = [(c.tokens, c.logprobs, c.sampled_logprobs, c.top_logprobs) for c in answers]
    return hashlib.blake2b(repr(told).encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_answers_of_old(model: Model) -> None:
    assert digest(model) == json.loads(KEPT.read_text())[str(model)]


if __name__ == "__main__":
    KEPT.write_text(json.dumps({str(model): digest(model) for model in MODELS}, indent=2) + "\n")
