"""Answers: a message with the tokens that spell it, and what is there of one while it is made."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter

from mohist.chat.delta import Delta
from mohist.chat.parser import Parser
from mohist.cost import Cost, peak_memory_bytes
from mohist.engine.engine import Engine, FinishEvent, TokenEvent
from mohist.types import Completion, Message, Request

__all__ = ["Answer", "Reply"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A completion, and the message that its tokens spell."""

    message: Message
    completion: Completion


class Reply:
    """One answer as it is made. Iterate over its pieces; afterwards `answer` and `cost` are there."""

    answer: Answer
    cost: Cost
    first_token_s: float
    """From the start of the iteration to the first token."""

    def __init__(
        self, engine: Engine, request: Request, parser: Parser, flops: Callable[[Completion], int]
    ) -> None:
        """`flops`: floating-point operations that a completion took."""
        self._engine, self._request, self._parser, self._flops = engine, request, parser, flops
        self._stopping = False

    def stop(self) -> None:
        """End the answer with what it has, after the token that is being computed."""
        self._stopping = True

    def __iter__(self) -> Generator[Delta]:
        start = perf_counter()
        completion: Completion | None = None
        num_tokens, ended = 0, False
        with closing(self._engine.stream(self._request)) as events:
            for event in events:
                if isinstance(event, FinishEvent):
                    completion = event.completion
                elif isinstance(event, TokenEvent) and not ended:  # one step may have drawn several
                    num_tokens += 1
                    if num_tokens == 1:
                        self.first_token_s = perf_counter() - start
                    yield from self._parser.push(event.draw.token)
                    ended = self._stopping or self._parser.stopped
                    if ended:
                        self._engine.abort(event.id)
        assert completion is not None
        if (ended and completion.finish_reason == "abort") or num_tokens < len(completion.tokens):
            completion = completion.cut(num_tokens, "stop" if self._parser.stopped else "abort")
        seconds = perf_counter() - start
        yield from self._parser.finish()
        self.answer = Answer(message=self._parser.message(), completion=completion)
        self.cost = Cost.of(
            completion.usage,
            flops=self._flops(completion),
            seconds=seconds,
            peak_bytes=peak_memory_bytes(),
        )

    @property
    def tokens_per_second(self) -> float:
        """The rate at which the tokens after the first one came; 0 if there were none."""
        rest = self.cost.completion_tokens - 1
        seconds = self.cost.seconds - self.first_token_s
        return rest / seconds if rest > 0 and seconds > 0 else 0.0
