"""Requests drawn at random, and what each is answered alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b

from hypothesis import strategies as st

from mohist.types import Completion, Request, SamplingParams
from tests.exact.models import MAX_POSITIONS, VOCAB, Model, decoder, engine

SHARED = tuple((7 * i * i + 3 * i) % VOCAB for i in range(90))
"""Prompts begin with some of this, so that their blocks are often shared."""

PARAMS = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 24) | st.just(70),  # many blocks to grow into: preemption
    temperature=st.sampled_from([1.0, 0.0, 0.5, 1.7]),
    top_k=st.sampled_from([0, 1, 5, VOCAB + 9]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.02, 0.3]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.5]),
    seed=st.sampled_from([0, 1, 2**64 - 1]),
    stop_tokens=st.sampled_from([(), tuple(range(0, VOCAB, 9))]),
    top_logprobs=st.sampled_from([0, 1, 5, 64]),
)
PROMPTS = st.builds(
    lambda shared, own: SHARED[:shared] + tuple(own),
    st.sampled_from([0, 15, 16, 17, 32, 48, 64, len(SHARED)]),
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8),
)


@dataclass(frozen=True)
class Hashing:
    """Makes guides that allow what a hash of the answer says: a part of the tokens, one of them, or all."""

    seed: int

    def __call__(self) -> HashGuide:
        return HashGuide(self.seed)


class HashGuide:
    def __init__(self, seed: int) -> None:
        self.state = blake2b(bytes([seed]), digest_size=(VOCAB + 7) // 8)

    def allowed(self) -> bytes | int | None:
        bits = self.state.digest()
        match bits[-1] % 4:
            case 0:
                return None
            case 1:
                return bits[0] % VOCAB
        return bits

    def push(self, token: int, /) -> None:
        self.state.update(bytes([token]))


GUIDES = st.sampled_from([None, None, Hashing(1), Hashing(2)])
REQUESTS = st.builds(
    Request, prompt=PROMPTS, params=PARAMS, sample=st.sampled_from([0, 1, 2**31 - 9]), guide=GUIDES
)


@cache
def alone(model: Model, request: Request) -> Completion:
    """The answer of a fresh engine with one thread and whole prompts that knows no other request."""
    return engine(decoder(model)).generate([request])[0]


def content(completion: Completion) -> Completion:
    """All of an answer but how it was computed: what was in the cache, what was guessed."""
    usage = dataclasses.replace(completion.usage, cached_tokens=0, drafted_tokens=0, accepted_tokens=0)
    return dataclasses.replace(completion, usage=usage)


def following(request: Request, completion: Completion) -> Request:
    """The next turn of a conversation: its prompt ends in blocks that decoding has filled."""
    prompt = (request.prompt + completion.tokens + (5,))[: MAX_POSITIONS - 1]
    return dataclasses.replace(request, prompt=prompt)
