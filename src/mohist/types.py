"""The nouns that cross floors: plain data, no torch, no behaviour beyond checking itself.

Tokens are ids (`int`), text is `str`. Log-probabilities are natural logarithms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mohist.errors import RequestError

__all__ = [
    "Completion",
    "FinishReason",
    "Grade",
    "Group",
    "Guide",
    "GuideFactory",
    "Message",
    "Problem",
    "Request",
    "Role",
    "Rollout",
    "Sample",
    "SamplingParams",
    "ToolCall",
    "TopLogprobs",
    "Usage",
]

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "abort", "error"]
"""A stop token came; no room was left; the caller ended it; its guide failed."""
TopLogprobs = tuple[tuple[int, float], ...]
"""(token, raw logprob) pairs, most likely first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call that the model asks for; `arguments` is the JSON text as the model wrote it."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One turn of a conversation. `reasoning` is the model's thinking, apart from its answer."""

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are drawn. The defaults sample the model's own distribution."""

    max_tokens: int = 256
    """Most tokens to generate; at least 1."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches this; in (0, 1]."""
    min_p: float = 0.0
    """Drop tokens less likely than this fraction of the most likely one; in [0, 1)."""
    repetition_penalty: float = 1.0
    """Divide (if positive) or multiply (if negative) the logits of tokens seen in prompt or answer; > 0."""
    presence_penalty: float = 0.0
    """Subtract from the logits of tokens that the answer already holds; in [-2, 2]."""
    frequency_penalty: float = 0.0
    """Subtract, times their count, from the logits of tokens that the answer already holds; in [-2, 2]."""
    seed: int = 0
    """With the sample's index and the token's position, the only source of randomness; in [0, 2**64)."""
    stop_tokens: tuple[int, ...] = ()
    """Generation ends after any of these; the stop token is part of the completion's tokens."""
    top_logprobs: int = 0
    """How many of the most likely tokens to report at each position; 0 to 64."""

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str], ...] = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            (
                "temperature",
                math.isfinite(self.temperature) and self.temperature >= 0,
                "a finite number >= 0",
            ),
            ("top_k", self.top_k >= 0, "0 (off) or a positive count"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p < 1, "in [0, 1)"),
            (
                "repetition_penalty",
                math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0,
                "a finite number > 0",
            ),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "in [-2, 2]"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "in [-2, 2]"),
            ("seed", 0 <= self.seed < 2**64, "in [0, 2**64)"),
            ("top_logprobs", 0 <= self.top_logprobs <= 64, "in 0..64"),
        )
        for name, ok, expected in checks:
            if not ok:
                raise RequestError(f"{name} = {getattr(self, name)!r}: it must be {expected}")

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


class Guide(Protocol):
    """Says which tokens an answer may go on with. One guide follows one answer, token by token.

    It must be a function of those tokens: then the answer is one of its request, whatever the engine does
    meanwhile. A guide that raises ends its own answer, with finish reason "error", and no other.
    """

    def allowed(self) -> bytes | int | None:
        """What may come next: bit i % 8 of byte i // 8 says whether token i, an int the only token, None any.

        Asked once for each token that is drawn. Bits that are missing at the end are 0.
        """
        ...

    def push(self, token: int, /) -> None:
        """The answer goes on with `token`."""
        ...


GuideFactory = Callable[[], Guide]
"""Makes a guide for each sample of a request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the engine is asked: continue `prompt` under `params`, as the `sample`-th answer to it."""

    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    sample: int = 0
    """Index among the samples of one prompt; enters the noise, so samples differ under one seed."""
    guide: GuideFactory | None = None
    """Restricts what is drawn; None: nothing is."""
    adapter: str | None = None
    """Name of a LoRA adapter that the engine has; None: the base model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that a request cost."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values came from the prefix cache."""
    completion_tokens: int
    drafted_tokens: int = 0
    """Guesses that speculation had computed ..."""
    accepted_tokens: int = 0
    """... and those that were right, each a completion token that needed no step of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """The engine's answer. The three per-token tuples have one entry for every token."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw: log-softmax of the model's own logits at the chosen token."""
    sampled_logprobs: tuple[float, ...]
    """Under the distribution that was sampled, after penalties, guide, temperature and truncation."""
    top_logprobs: tuple[TopLogprobs, ...]
    finish_reason: FinishReason
    usage: Usage
    error: str = ""
    """Why, where the finish reason is "error"."""

    def cut(self, count: int, finish_reason: FinishReason) -> Completion:
        """The same answer, ended after `count` tokens."""
        return Completion(
            tokens=self.tokens[:count],
            logprobs=self.logprobs[:count],
            sampled_logprobs=self.sampled_logprobs[:count],
            top_logprobs=self.top_logprobs[:count],
            finish_reason=finish_reason,
            usage=dataclasses.replace(self.usage, completion_tokens=min(count, len(self.tokens))),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something to solve whose answer can be checked."""

    id: str
    """Unique within its task and the same in every run: splits, logs and drill-downs refer to it."""
    question: str
    answer: Any
    """What the task's grader compares with: JSON data that the model never sees."""
    system: str = ""
    """Instructions before the question; empty for none."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation that asks the question."""
        system = (Message(role="system", content=self.system),) if self.system else ()
        return (*system, Message(role="user", content=self.question))


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """What an answer is worth. `reward` is what training maximises; `parts` say why."""

    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named aspects ("accuracy", "format", "language"), each 0 to 1; accuracy is what evaluation counts."""
    note: str = ""
    """For people: what was wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One graded answer to a problem."""

    sample: int
    """Index among the answers to its problem."""
    completion: Completion
    message: Message
    """The completion as text, thinking apart from the answer."""
    grade: Grade


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """All graded answers to one problem under one set of weights."""

    problem: Problem
    prompt: tuple[int, ...]
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sequence to learn from. Entry i of the per-token tuples is about token i; entry 0 is unused.

    Samples with equal `tokens[:num_shared]` may be packed so that those rows are computed once.
    """

    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    """How much each token's loss counts; 0 for tokens that are only context."""
    num_shared: int = 0
    """Leading tokens that other samples of the batch may have in common: the prompt of a group."""
    logprobs: tuple[float, ...] | None = None
    """Of each token under the distribution that it was sampled from; 0 where it was not sampled."""
    advantage: float = 0.0
