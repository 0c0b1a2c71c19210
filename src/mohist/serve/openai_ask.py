"""Requests in OpenAI's dialect to `Ask`s."""

from __future__ import annotations

from typing import Any, get_args

from mohist.chat.format import Effort
from mohist.serve.ask import Ask, Shape, Tool
from mohist.serve.errors import unavailable
from mohist.serve.openai_body import (
    Body,
    ChatBody,
    JsonFormat,
    MessageBody,
    NamedTool,
    RegexFormat,
    SamplingBody,
    SchemaFormat,
    unknown_fields,
)
from mohist.types import Message, ToolCall

__all__ = ["EFFORTS", "IGNORED_HEADER", "chat_ask", "ignored_header", "refuse", "sampling", "stop_strings"]

IGNORED_HEADER = "x-mohist-ignored"
_MOST_IGNORED = 40
EFFORTS: dict[str, Effort] = {**{effort: effort for effort in get_args(Effort)}, "ultra": "max"}
_REFUSED = {
    "functions": "functions, which OpenAI has replaced by tools,",
    "function_call": "function_call, which OpenAI has replaced by tool_choice,",
    "logit_bias": "logit_bias",
    "audio": "audio",
    "web_search_options": "a search of the web",
    "best_of": "best_of",
}
"""Unknown fields that would change the answer: to ignore them would be wrong."""


def chat_ask(body: ChatBody) -> Ask:
    """The ask of a checked body."""
    refuse(body)
    tool_choice = body.tool_choice or "auto"
    named = tool_choice.function.name if isinstance(tool_choice, NamedTool) else ""
    last = body.messages[-1]
    return Ask(
        model=body.model,
        messages=tuple(map(message, body.messages)),
        continues=bool(last.prefix),
        tools=tuple(
            Tool(
                name=tool.function.name,
                description=tool.function.description,
                parameters=tool.function.parameters,
                strict=bool(tool.function.strict),
            )
            for tool in body.tools or []
        ),
        tool_choice="required" if isinstance(tool_choice, NamedTool) else tool_choice,
        tool_name=named,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=thinking(body),
        effort=EFFORTS.get(body.reasoning_effort or ""),
        thinking_budget=None if body.thinking is None else body.thinking.budget_tokens,
        sampling=sampling(body, body.max_completion_tokens),
        n=body.n or 1,
        stop=stop_strings(body),
        shape=shape(body),
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        receipt=bool(body.receipt),
    )


def thinking(body: ChatBody) -> bool | None:
    """What the several ways to switch thinking say; DeepSeek's goes first."""
    if body.thinking is not None and body.thinking.type != "adaptive":
        return body.thinking.type == "enabled"
    switches = body.chat_template_kwargs
    if switches is not None:
        given = [one for one in (switches.enable_thinking, switches.thinking) if one is not None]
        if given:
            return given[0]
    return False if body.reasoning_effort == "none" else None


def sampling(body: SamplingBody, max_completion_tokens: int | None = None) -> dict[str, Any]:
    """The fields of `SamplingParams` that the client set."""
    names = (
        *("temperature", "top_p", "top_k", "min_p"),
        *("repetition_penalty", "presence_penalty", "frequency_penalty"),
    )
    given = {name: getattr(body, name) for name in names}
    given["max_tokens"] = body.max_tokens if max_completion_tokens is None else max_completion_tokens
    # A negative seed is the 64-bit number with the same bits.
    given["seed"] = None if body.seed is None else body.seed % 2**64
    return {name: value for name, value in given.items() if value is not None}


def stop_strings(body: SamplingBody) -> tuple[str, ...]:
    """The texts that end the answer."""
    return (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())


def shape(body: ChatBody) -> Shape:
    """The form that the answer must have."""
    match body.response_format:
        case JsonFormat():
            return Shape(kind="json_object")
        case SchemaFormat(json_schema=schema):
            return Shape(kind="json_schema", schema=schema.schema_)
        case RegexFormat(regex=pattern):
            return Shape(kind="regex", pattern=pattern)
    return Shape()


def message(body: MessageBody) -> Message:
    """A message as the model's template reads it."""
    content = body.content
    if isinstance(content, list):
        content = "".join(part.text for part in content)
    return Message(
        role="system" if body.role == "developer" else body.role,
        content=content or "",
        reasoning=body.reasoning_content if body.reasoning_content is not None else body.reasoning,
        tool_calls=tuple(
            ToolCall(name=call.function.name, arguments=call.function.arguments, id=call.id)
            for call in body.tool_calls or []
        ),
        tool_call_id=body.tool_call_id,
        name=body.name,
    )


def refuse(body: SamplingBody) -> None:
    """Raise ApiError where an unknown field would change the answer."""
    for name, value in (body.model_extra or {}).items():
        if name in _REFUSED and value not in (None, False, 1, {}, []):
            raise unavailable(_REFUSED[name], name)


def ignored_header(body: Body, *further: str) -> dict[str, str]:
    """The header that names what had no effect; none if everything had.

    `further` are fields of the body, or of the `Ask` that was made of it.
    """
    names = dict.fromkeys((*unknown_fields(body), *(body.asked.get(name, name) for name in further)))
    spelled = [name for name in names if _fits_header(name)]
    count = len(names) - len(spelled[:_MOST_IGNORED])
    listed = ", ".join([*spelled[:_MOST_IGNORED], *([f"and {count} more"] if count else [])])
    return {IGNORED_HEADER: listed} if names else {}


def _fits_header(name: str) -> bool:
    """Whether a header can hold it: no value of one begins or ends with a space."""
    return name.isascii() and name.isprintable() and 0 < len(name.strip()) == len(name) <= 80
