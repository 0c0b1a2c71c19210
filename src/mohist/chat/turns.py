"""What the model should have generated for a turn of a given conversation: the inverse of `Chat.parse`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mohist.chat.chat import Chat
from mohist.chat.messages import Messages, for_template
from mohist.chat.template import Rendered
from mohist.errors import ChatError

__all__ = ["Turn", "last_turn"]


class Turn(NamedTuple):
    """A prompt, and the answer to it, which ends with a token that ends a turn wherever there is one."""

    prompt: list[int]
    answer: list[int]


def last_turn(
    chat: Chat,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    thinking: bool | None = None,
) -> Turn:
    """The last of `messages`, the assistant's, as tokens, and the prompt that asks for it.

    The prompt is what `chat.render` makes of the messages before. The answer is what the template writes
    after it; where the template leaves the reasoning out, as many do for turns of the past, the answer is
    put together from the format's own marks. Raises ChatError.
    """
    message = for_template(messages)[-1]
    if message["role"] != "assistant":
        raise ChatError(
            f"messages[{len(messages) - 1}].role = {message['role']!r}: an assistant's turn is asked for"
        )
    before = chat.rendered(messages[:-1], tools=tools, thinking=thinking)
    prompt = chat.encode(before)
    whole = chat.rendered(messages, tools=tools, thinking=thinking, add_generation_prompt=False)
    reasoning = message.get("reasoning_content", "")
    if whole.text.startswith(before.text) and reasoning.strip() in whole.text[len(before.text) :]:
        answer = _written(chat, prompt, before, whole)
    else:
        answer = _composed(chat, prompt, message)
    return Turn(prompt, _ended(chat, answer))


def _written(chat: Chat, prompt: list[int], before: Rendered, whole: Rendered) -> list[int]:
    """What the template wrote after the prompt."""
    tokens = chat.encode(whole)
    if tokens[: len(prompt)] == prompt:
        return tokens[len(prompt) :]
    # A token reaches across the end of the prompt, which no model that is given the prompt could generate.
    show = str if whole.mask is None else whole.mask.show
    pieces = chat.tokenizer.split(whole.masked[len(before.text) :])
    return _after(chat, prompt, [piece if isinstance(piece, int) else show(piece) for piece in pieces])


def _composed(chat: Chat, prompt: list[int], message: Mapping[str, Any]) -> list[int]:
    if "tool_calls" in message:
        raise ChatError("this chat template does not write this turn's reasoning beside its tool calls")
    opening, closing = map(chat.tokenizer.split, chat.format.thought)
    reasoning, content = message.get("reasoning_content", ""), message["content"]
    is_open = chat.opens_thinking(prompt)
    if not (reasoning or is_open):
        return _after(chat, prompt, [content])
    start = [] if is_open else opening
    return _after(chat, prompt, [*start, reasoning, *closing, content])


def _after(chat: Chat, prompt: list[int], pieces: Sequence[str | int]) -> list[int]:
    """Tokens of pieces that follow the prompt."""
    joined: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return chat.tokenizer.encode_pieces([prompt[-1], *joined])[1:]


def _ended(chat: Chat, answer: list[int]) -> list[int]:
    """The answer up to the last token that ends a turn; with such a token, where there was none."""
    ends = [i for i, token in enumerate(answer) if token in chat.stop_tokens]
    if ends:
        return answer[: ends[-1] + 1]
    while answer and not chat.tokenizer.decode(answer[-1:]).strip():
        answer = answer[:-1]
    return answer + list(chat.stop_tokens[:1])
