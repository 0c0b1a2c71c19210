"""Requests in Anthropic's dialect as they arrive, and what is asked by them.

Field names are those of the Messages API. Unknown fields are kept, so that they can be reported as ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, JsonValue

from mohist.serve.ask import Ask, Shape, Tool
from mohist.serve.errors import invalid
from mohist.serve.openai_body import Body, Seed, TextPart
from mohist.serve.settings import LimitsConfig
from mohist.types import Message, ToolCall

__all__ = ["CountBody", "MessagesBody", "messages_ask"]


class ThinkingBlock(Body):
    """Thinking of an earlier answer. Signatures are not checked: who sends it may say what it likes."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class ToolUseBlock(Body):
    """A call in the conversation so far."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


class ToolResultBlock(Body):
    """What a tool said."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextPart] | None = None
    is_error: bool | None = None


Block = Annotated[TextPart | ThinkingBlock | ToolUseBlock | ToolResultBlock, Field(discriminator="type")]


class Turn(Body):
    """One message."""

    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolEntry(Body):
    """A function that may be called."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    input_schema: dict[str, JsonValue]
    strict: bool | None = None


class ToolChoiceEntry(Body):
    """Whether tools are called; `any` asks for one, `tool` for the one that is named."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingEntry(Body):
    """The switch, and how many tokens thinking may take. `adaptive` leaves it to the model."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class OutputFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class OutputEntry(Body):
    """How much to think, and the form of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountBody(Body):
    """POST /v1/messages/count_tokens."""

    asked: ClassVar = {"effort": "output_config.effort"}
    model: str = "default"
    messages: list[Turn]
    system: str | list[TextPart] | None = None
    tools: list[ToolEntry] | None = None
    tool_choice: ToolChoiceEntry | None = None
    thinking: ThinkingEntry | None = None
    output_config: OutputEntry | None = None


class MessagesBody(CountBody):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1)]
    stop_sequences: list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stream: bool | None = None
    seed: Seed | None = None
    """Mohist's own: with equal seeds, equal answers."""
    receipt: bool | None = None
    """Mohist's own: give what is needed to replay the answer."""


def messages_ask(body: CountBody, limits: LimitsConfig) -> Ask:
    """The ask of a body. Raises ApiError."""
    tools = tuple(map(_tool, body.tools or []))
    if len(tools) > limits.max_tools:
        raise invalid(f"{len(tools)} tools: at most {limits.max_tools} are allowed", "tools")
    if len({tool.name for tool in tools}) < len(tools):
        raise invalid("tools: names must be unique", "tools")
    if not body.messages:
        raise invalid("messages: at least one message is required", "messages")
    if len(body.messages) > limits.max_messages:
        raise invalid(f"{len(body.messages)} messages: at most {limits.max_messages} are allowed", "messages")
    choice = body.tool_choice or ToolChoiceEntry(type="auto")
    named = choice.name if choice.type == "tool" else None
    if choice.type == "tool" and named not in {tool.name for tool in tools}:
        raise invalid(f"tool_choice.name = {named!r}: tools has no such tool", "tool_choice")
    if choice.type == "any" and not tools:
        raise invalid("tool_choice needs tools: give some, or leave it out", "tool_choice")
    output = body.output_config or OutputEntry()
    return Ask(
        model=body.model,
        messages=(*_system(body.system), *_turns(body.messages)),
        continues=body.messages[-1].role == "assistant",
        tools=tools,
        tool_choice="none" if choice.type == "none" else "auto" if choice.type == "auto" else "required",
        tool_name=named or "",
        parallel_tool_calls=not choice.disable_parallel_tool_use,
        thinking=_thinking(body.thinking),
        effort=output.effort,
        thinking_budget=None if body.thinking is None else body.thinking.budget_tokens,
        shape=Shape() if output.format is None else Shape(kind="json_schema", schema=output.format.schema_),
        **(_sampled(body, limits) if isinstance(body, MessagesBody) else {}),
    )


def _sampled(body: MessagesBody, limits: LimitsConfig) -> dict[str, Any]:
    stop = tuple(body.stop_sequences or ())
    if len(stop) > limits.max_stop:
        raise invalid(f"{len(stop)} stop_sequences: at most {limits.max_stop} are allowed", "stop_sequences")
    for i, text in enumerate(stop):
        if not 1 <= len(text) <= limits.max_stop_chars:
            raise invalid(
                f"stop_sequences[{i}] has {len(text)} characters: 1 to {limits.max_stop_chars} are allowed",
                "stop_sequences",
            )
    given = {name: getattr(body, name) for name in ("max_tokens", "temperature", "top_p", "top_k")}
    given["seed"] = None if body.seed is None else body.seed % 2**64
    return {
        "sampling": {name: value for name, value in given.items() if value is not None},
        "stop": stop,
        "receipt": bool(body.receipt),
    }


def _thinking(entry: ThinkingEntry | None) -> bool | None:
    return None if entry is None or entry.type == "adaptive" else entry.type == "enabled"


def _tool(entry: ToolEntry) -> Tool:
    return Tool(
        name=entry.name,
        description=entry.description,
        parameters=entry.input_schema,
        strict=bool(entry.strict),
    )


def _system(system: str | list[TextPart] | None) -> tuple[Message, ...]:
    return (Message(role="system", content=_text(system)),) if system else ()


def _turns(turns: list[Turn]) -> Iterator[Message]:
    """Messages as models know them: what tools said are messages of their own, before the user's text."""
    for turn in turns:
        if isinstance(turn.content, str):
            yield Message(role=turn.role, content=turn.content)
        elif turn.role == "assistant":
            yield _assistant(turn.content)
        else:
            yield from _user(turn.content)


def _assistant(blocks: list[Block]) -> Message:
    thinking = [block.thinking for block in blocks if isinstance(block, ThinkingBlock)]
    if any(isinstance(block, ToolResultBlock) for block in blocks):
        raise invalid("messages: a tool_result belongs into a message of the user", "messages")
    return Message(
        role="assistant",
        content=_text([block for block in blocks if isinstance(block, TextPart)]),
        reasoning="".join(thinking) if thinking else None,
        tool_calls=tuple(
            ToolCall(name=block.name, arguments=json.dumps(block.input, ensure_ascii=False), id=block.id)
            for block in blocks
            if isinstance(block, ToolUseBlock)
        ),
    )


def _user(blocks: list[Block]) -> Iterator[Message]:
    texts = [block for block in blocks if isinstance(block, TextPart)]
    for block in blocks:
        match block:
            case ToolResultBlock():
                said = _text(block.content)
                text = f"Error: {said}" if block.is_error else said
                yield Message(role="tool", content=text, tool_call_id=block.tool_use_id)
            case ThinkingBlock() | ToolUseBlock():
                raise invalid(f"messages: a {block.type} belongs into a message of the assistant", "messages")
    if texts or not blocks:
        yield Message(role="user", content=_text(texts))


def _text(parts: str | list[TextPart] | None) -> str:
    return parts if isinstance(parts, str) else "".join(part.text for part in parts or [])
