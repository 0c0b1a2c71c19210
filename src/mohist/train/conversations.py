"""Conversations and prompt/completion pairs as samples: loss on what the assistant says, nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mohist.chat.chat import Chat
from mohist.chat.turns import last_turn
from mohist.data.jsonl import read_rows
from mohist.errors import ChatError
from mohist.types import Sample

__all__ = ["conversation", "pair", "read_samples"]


def read_samples(path: Path, chat: Chat) -> list[list[Sample]]:
    """The samples of each row of a JSONL file. A row is one of

        {"messages": [...]}                      with "tools", and "weight" (0 to 1) in assistant messages
        {"prompt": [...], "completion": [...]}   messages, of which only the completion's are learnt
        {"prompt": "...", "completion": "..."}   plain text

    Raises DataError, naming every faulty line.
    """

    def parse(row: dict[str, Any]) -> list[Sample]:
        try:
            return _samples(row, chat)
        except ChatError as error:
            raise ValueError(str(error)) from error

    return list(read_rows(path, parse))


def _samples(row: Mapping[str, Any], chat: Chat) -> list[Sample]:
    tools = row.get("tools")
    match row:
        case {"messages": list(messages)}:
            return conversation(chat, messages, tools=tools)
        case {"prompt": list(prompt), "completion": list(completion)}:
            return conversation(chat, [*prompt, *completion], start=len(prompt), tools=tools)
        case {"prompt": str(prompt), "completion": str(completion)}:
            return [pair(chat, prompt, completion)]
    raise ValueError(
        'needs "messages": [...], or "prompt" and "completion", both texts or both lists of messages; '
        f"its keys are {', '.join(row) or 'none'}"
    )


def pair(chat: Chat, prompt: str, completion: str) -> Sample:
    """Raw text, without a template; after the completion comes the token that ends a text, if any does."""
    if not completion:
        raise ValueError('"completion" is empty: there is nothing to learn')
    context = chat.tokenizer.prompt(prompt)
    if not context:
        raise ValueError('"prompt" has no token: the first token of the completion would follow nothing')
    answer = [*chat.tokenizer.encode(completion, special=False), *chat.stop_tokens[:1]]
    tokens = context + answer
    return _sample(tokens, [(len(context), len(tokens), 1.0)])


def conversation(
    chat: Chat,
    messages: Sequence[Mapping[str, Any]],
    *,
    start: int = 0,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[Sample]:
    """Samples in which every assistant turn from index `start` on is learnt after its own prompt.

    Turns whose prompts continue each other share a sample. Where a template writes the past otherwise than it
    was said (most leave out old reasoning), a turn gets a sample of its own. Raises ChatError, and ValueError
    when there is nothing to learn.
    """
    samples: list[Sample] = []
    context: list[int] = []
    spans: list[tuple[int, int, float]] = []
    for index, message in enumerate(messages):
        if index < start or not isinstance(message, Mapping) or message.get("role") != "assistant":
            continue
        turn = last_turn(chat, messages[: index + 1], tools=tools)
        if spans and turn.prompt[: len(context)] != context:
            samples.append(_sample(context, spans))
            spans = []
        context = turn.prompt + turn.answer
        spans.append((len(turn.prompt), len(context), _weight(message, index)))
    if spans:
        samples.append(_sample(context, spans))
    if not any(any(sample.weights) for sample in samples):
        raise ValueError("no assistant message to learn: one with a weight over 0 is needed")
    return samples


def _weight(message: Mapping[str, Any], index: int) -> float:
    weight = message.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
        raise ValueError(f"messages[{index}].weight = {weight!r}: it must be a number from 0 to 1")
    return float(weight)


def _sample(tokens: Sequence[int], spans: Sequence[tuple[int, int, float]]) -> Sample:
    """Tokens of which each (start, end, weight) is learnt."""
    weights = [0.0] * len(tokens)
    for start, end, weight in spans:
        weights[start:end] = [weight] * (end - start)
    return Sample(tokens=tuple(tokens), weights=tuple(weights))
