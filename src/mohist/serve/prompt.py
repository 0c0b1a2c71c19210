"""An `Ask` to what the engine is asked: the prompt's tokens, the params, and how to read the answer.

Everything that can be wrong with a request for a local model is found here. It takes as long as rendering and
tokenizing take, so it runs on a thread beside the event loop.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mohist.chat.chat import Chat
from mohist.chat.guides.guides import Guides
from mohist.errors import ChatError, ConfigError, RequestError
from mohist.llm import LLM
from mohist.serve.ask import Ask, Tool
from mohist.serve.errors import ApiError, invalid
from mohist.serve.fim import fill_in
from mohist.serve.form import form_of
from mohist.serve.text import RawText, TextParser
from mohist.types import Message, Request

__all__ = ["Prepared", "ignored_fields", "prepare"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A request that the engine will accept."""

    request: Request
    parser: Callable[[], TextParser]
    """Makes the parser of one choice."""
    thinks: bool
    """Whether the prompt opened thinking."""
    wants_tokens: bool
    """Whether anything is to be generated; an echo alone may be all."""
    ignored: tuple[str, ...]
    """Fields of the ask that have no effect."""


def prepare(llm: LLM, guides: Guides, ask: Ask) -> Prepared:
    """Render, tokenize and check. Raises ApiError."""
    raw = ask.prompt is not None
    where = "prompt" if raw else "messages"
    try:
        prompt, further_stops = raw_prompt(llm.chat, ask) if raw else (chat_prompt(llm.chat, ask), ())
        stop_tokens = (*llm.chat.stop_tokens, *further_stops)
        given = {"seed": secrets.randbits(64), **ask.sampling}
        room = check_room(len(prompt), llm.engine.capacity, where)
        wants_tokens = given.get("max_tokens") != 0
        given["max_tokens"] = min(given.get("max_tokens") or room, room)
        params = llm.defaults.replace(**given, stop_tokens=stop_tokens, top_logprobs=ask.top_logprobs or 0)
    except (ChatError, RequestError) as error:
        raise invalid(error, where) from error
    try:
        guide = guides.factory(form_of(ask), prompt, stop_tokens=stop_tokens, raw=raw)
    except (RequestError, ConfigError) as error:
        raise invalid(error, code="form_not_available") from error

    def parser() -> TextParser:
        if raw:
            return RawText(llm.chat.tokenizer, stop_tokens=stop_tokens, stop=ask.stop)
        # Where no tool may be called, text that looks like a call is text.
        parallel = ask.parallel_tool_calls and not ask.tool_name
        return llm.chat.stream(prompt, stop=ask.stop, tools=offered(ask), parallel=parallel)

    return Prepared(
        request=Request(prompt=tuple(prompt), params=params, guide=guide, adapter=ask.adapter),
        parser=parser,
        thinks=not raw and llm.chat.opens_thinking(prompt),
        wants_tokens=wants_tokens,
        ignored=ignored_fields(llm.chat, ask),
    )


def check_room(num_prompt: int, capacity: int, param: str) -> int:
    """How many tokens are left for the answer, at least 1. Raises ApiError."""
    if num_prompt >= capacity:
        raise ApiError(
            400,
            f"the prompt has {num_prompt} tokens and this model takes at most {capacity} tokens of prompt "
            f"and answer together: shorten it by at least {num_prompt - capacity + 1} tokens",
            param=param,
            code="context_length_exceeded",
        )
    return capacity - num_prompt


def chat_prompt(chat: Chat, ask: Ask) -> list[int]:
    """The tokens of a conversation, up to where the answer begins or goes on."""
    messages = ask.messages[:-1] if ask.continues else ask.messages
    prompt = chat.render(
        messages, tools=offered(ask) or None, thinking=ask.thinking, variables=effort_variables(chat, ask)
    )
    return [*prompt, *beginning(chat, prompt, ask.messages[-1])] if ask.continues else prompt


def offered(ask: Ask) -> list[dict[str, Any]]:
    """The tools that the model may call, as templates read them."""
    return [] if ask.tool_choice == "none" else [tool_schema(tool) for tool in ask.tools]


def effort_variables(chat: Chat, ask: Ask) -> dict[str, Any]:
    """What tells the template how much to think, in the model's own words; nothing where it has none."""
    levels, variable = chat.format.efforts, chat.format.effort_variable
    if ask.effort is None or ask.effort not in levels or variable not in chat.template.variables:
        return {}
    return {variable: levels[ask.effort]}


def ignored_fields(chat: Chat, ask: Ask) -> tuple[str, ...]:
    """The fields of the ask that can have no effect with this model."""
    return ("effort",) if ask.effort is not None and not effort_variables(chat, ask) else ()


def beginning(chat: Chat, prompt: list[int], message: Message) -> Iterable[int]:
    """The tokens of an answer that was begun: thinking, closed where an answer follows, and the answer."""
    opening, closing = map(chat.tokenizer.split, chat.format.thought)
    pieces: list[str | int] = []
    opened = chat.opens_thinking(prompt)
    if message.reasoning:
        pieces = [*([] if opened else opening), message.reasoning]
        opened = True
    if message.content:
        pieces += [*(closing if opened else []), message.content]
    whole = chat.tokenizer.encode_pieces([*prompt, *joined(pieces)])
    return whole[len(prompt) :]


def joined(pieces: Iterable[str | int]) -> list[str | int]:
    """Neighbouring texts put together, since tokens may reach across where they meet."""
    made: list[str | int] = []
    for piece in pieces:
        if made and isinstance(piece, str) and isinstance(made[-1], str):
            made[-1] += piece
        else:
            made.append(piece)
    return made


def tool_schema(tool: Tool) -> dict[str, Any]:
    """A tool as chat templates read it."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = dict(tool.parameters or {"type": "object", "properties": {}})
    return {"type": "function", "function": function}


def raw_prompt(chat: Chat, ask: Ask) -> tuple[list[int], tuple[int, ...]]:
    """The tokens of a text to continue or to fill in, and further tokens that end what is filled in."""
    if isinstance(ask.prompt, tuple):
        if ask.suffix is not None:
            raise invalid("suffix needs a prompt that is text, not tokens", "suffix")
        return list(ask.prompt), ()
    assert ask.prompt is not None
    if ask.suffix is not None:
        return fill_in(chat.tokenizer, ask.prompt, ask.suffix)
    return chat.tokenizer.prompt(ask.prompt), ()
