"""Requests drawn at random, and what each is answered alone."""

from __future__ import annotations

import dataclasses
from functools import cache

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
REQUESTS = st.builds(Request, prompt=PROMPTS, params=PARAMS, sample=st.sampled_from([0, 1, 2**31 - 9]))


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
