"""Raw completions in OpenAI's older form: whole and in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mohist.serve.answer import Answer, Choice, Event, Finished, Piece, Started, TokenInfo, Usage
from mohist.serve.openai_shape import LEAST_LOGPROB, ChunkFrame, head, receipt_entry, usage_entry

__all__ = ["TextChunks", "text_completion"]


def text_completion(answers: Sequence[Answer], *, with_logprobs: bool) -> dict[str, Any]:
    """All answers, choices numbered through."""
    choices = [choice for answer in answers for choice in answer.choices]
    return {
        **head(answers[0].started, "cmpl", "text_completion"),
        "choices": [_choice(i, choice, with_logprobs) for i, choice in enumerate(choices)],
        "usage": usage_entry(sum((answer.usage for answer in answers), Usage())),
        **receipt_entry(answers[0].receipt),
    }


def _choice(index: int, choice: Choice, with_logprobs: bool) -> dict[str, Any]:
    assert choice.finished is not None
    return {
        "index": index,
        "text": choice.content,
        "logprobs": _logprobs(choice.content_tokens) if with_logprobs else None,
        "finish_reason": choice.finished.reason,
    }


def _logprobs(tokens: Sequence[TokenInfo]) -> dict[str, Any]:
    """The four lists about `tokens`."""
    return {
        "tokens": [info.data.decode("utf-8", "replace") for info in tokens],
        "token_logprobs": [_number(info.logprob) for info in tokens],
        "top_logprobs": [_top(info) for info in tokens],
        "text_offset": [info.place for info in tokens],
    }


def _top(info: TokenInfo) -> dict[str, float] | None:
    """The likeliest tokens by what they spell, the likelier of those that spell the same; None: not known."""
    if not info.top:
        return None
    top: dict[str, float] = {}
    for data, logprob in info.top:
        top.setdefault(data.decode("utf-8", "replace"), max(logprob, LEAST_LOGPROB))
    return top


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, LEAST_LOGPROB)


class TextChunks:
    """The chunks of streamed completions."""

    def __init__(
        self, started: Started, num_choices: int, *, with_logprobs: bool, include_usage: bool
    ) -> None:
        self._frame = ChunkFrame(head(started, "cmpl", "text_completion"), num_choices, include_usage)
        self._with_logprobs = with_logprobs

    def of(self, event: Event, offset: int) -> Iterable[dict[str, Any]]:
        """The chunks of one event, of an answer whose choices are numbered from `offset` on."""
        match event:
            case Piece():
                index = offset + event.choice
                logprobs = _logprobs(event.tokens) if self._with_logprobs else None
                yield self._chunk(index, event.text, logprobs)
            case Finished():
                self._frame.end_choice(event.usage)
                last = self._chunk(offset + event.choice, "", None, event.reason)
                yield {**last, **receipt_entry(event.receipt)}

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return self._frame.chunk(
            {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        )
