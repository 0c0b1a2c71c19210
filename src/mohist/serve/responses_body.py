"""Requests to OpenAI's Responses API as they arrive, and what is asked by them.

Nothing is stored: each request brings its whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from mohist.serve.ask import Ask, Shape, Tool
from mohist.serve.errors import invalid, unavailable
from mohist.serve.openai_ask import EFFORTS
from mohist.serve.openai_body import Body, Seed
from mohist.serve.settings import LimitsConfig
from mohist.types import Message, ToolCall

__all__ = ["ResponsesBody", "responses_ask"]

_MOST_TOP_LOGPROBS = 20
_LOGPROBS = "message.output_text.logprobs"


class Text(Body):
    """A part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class ReasoningText(Body):
    """Thinking, or a summary of it."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class MessageItem(Body):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Text]


class ReasoningItem(Body):
    """Thinking before the answer that follows it."""

    type: Literal["reasoning"]
    content: list[ReasoningText] | None = None
    summary: list[ReasoningText] | None = None


class CallItem(Body):
    """A call that the model asked for."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class CallOutputItem(Body):
    """What the function gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Text]


def _kind(item: Any) -> str:
    """The item's type; a message need not name its own."""
    found = item.get("type") if isinstance(item, dict) else getattr(item, "type", None)
    return found if isinstance(found, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")],
    Discriminator(_kind),
]


class FunctionTool(Body):
    """A function that may be called."""

    type: Literal["function"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class NamedFunction(Body):
    """The function that must be called."""

    type: Literal["function"]
    name: str


class ReasoningEntry(Body):
    """How much to think."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    name: str = ""
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    strict: bool | None = None


class TextEntry(Body):
    """The form of the answer."""

    format: Annotated[TextFormat | JsonFormat | SchemaFormat, Field(discriminator="type")] | None = None


class ResponsesBody(Body):
    """POST /v1/responses."""

    asked: ClassVar = {"effort": "reasoning.effort"}
    model: str = "default"
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningEntry | None = None
    text: TextEntry | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=_MOST_TOP_LOGPROBS)] | None = None
    stream: bool | None = None
    store: bool | None = None
    truncation: Literal["disabled", "auto"] | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: JsonValue = None
    metadata: dict[str, str] | None = None
    seed: Seed | None = None
    """Mohist's own: with equal seeds, equal answers."""
    receipt: bool | None = None
    """Mohist's own: give what is needed to replay the answer."""

    @property
    def with_logprobs(self) -> bool:
        """Whether logprobs are wanted."""
        return _LOGPROBS in (self.include or ()) or bool(self.top_logprobs)


def responses_ask(body: ResponsesBody, limits: LimitsConfig) -> Ask:
    """The ask of a body. Raises ApiError."""
    _refuse(body)
    messages = tuple(_messages(body))
    if not messages:
        raise invalid("input: at least one message is required", "input")
    if len(messages) > limits.max_messages:
        raise invalid(f"{len(messages)} messages: at most {limits.max_messages} are allowed", "input")
    tools = tuple(map(_tool, body.tools or []))
    if len(tools) > limits.max_tools:
        raise invalid(f"{len(tools)} tools: at most {limits.max_tools} are allowed", "tools")
    names = {tool.name for tool in tools}
    if len(names) < len(tools):
        raise invalid("Tool names must be unique.", "tools")
    choice = body.tool_choice or "auto"
    if isinstance(choice, NamedFunction) and choice.name not in names:
        raise invalid(f"tool_choice.name = {choice.name!r}: tools has no such function", "tool_choice")
    if choice == "required" and not tools:
        raise invalid("tool_choice needs tools: give some, or leave it out", "tool_choice")
    effort = None if body.reasoning is None else body.reasoning.effort
    given = {"max_tokens": body.max_output_tokens, "temperature": body.temperature, "top_p": body.top_p}
    given["seed"] = None if body.seed is None else body.seed % 2**64
    return Ask(
        model=body.model,
        messages=messages,
        tools=tools,
        tool_choice="required" if isinstance(choice, NamedFunction) else choice,
        tool_name=choice.name if isinstance(choice, NamedFunction) else "",
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=False if effort == "none" else None,
        effort=EFFORTS.get(effort or ""),
        sampling={name: value for name, value in given.items() if value is not None},
        shape=_shape(body.text),
        top_logprobs=(body.top_logprobs or 0) if body.with_logprobs else None,
        receipt=bool(body.receipt),
    )


def _refuse(body: ResponsesBody) -> None:
    """What needs a memory, or would cut something off without a word."""
    if body.previous_response_id is not None or body.conversation is not None:
        name = "conversation" if body.previous_response_id is None else "previous_response_id"
        raise unavailable(f"{name} (nothing is stored here: send the whole conversation as input)", name)
    if body.background:
        raise unavailable("background", "background")
    if body.truncation == "auto":
        raise unavailable("truncation = 'auto' (nothing is cut off without a word)", "truncation")


def _tool(entry: FunctionTool) -> Tool:
    return Tool(
        name=entry.name,
        description=entry.description,
        parameters=entry.parameters,
        strict=bool(entry.strict),
    )


def _shape(entry: TextEntry | None) -> Shape:
    match None if entry is None else entry.format:
        case JsonFormat():
            return Shape(kind="json_object")
        case SchemaFormat(schema_=schema):
            return Shape(kind="json_schema", schema=schema)
    return Shape()


def _messages(body: ResponsesBody) -> Iterator[Message]:
    if body.instructions is not None:
        yield Message(role="system", content=body.instructions)
    if isinstance(body.input, str):
        yield Message(role="user", content=body.input)
        return
    turn = _Turn()
    for item in body.input:
        match item:
            case MessageItem(role="assistant"):
                if turn.text is not None or turn.calls:
                    yield from turn.taken()
                turn.text = _text(item.content)
            case ReasoningItem():
                if turn.text is not None or turn.calls:
                    yield from turn.taken()
                parts = item.content or item.summary or []
                turn.reasoning = (turn.reasoning or "") + "".join(part.text for part in parts)
            case CallItem():
                turn.calls.append(ToolCall(name=item.name, arguments=item.arguments, id=item.call_id))
            case MessageItem():
                yield from turn.taken()
                role = "system" if item.role == "developer" else item.role
                yield Message(role=role, content=_text(item.content))
            case CallOutputItem():
                yield from turn.taken()
                yield Message(role="tool", content=_text(item.output), tool_call_id=item.call_id)
    yield from turn.taken()


class _Turn:
    """Items of the assistant that are one message: thinking, then text, then calls."""

    def __init__(self) -> None:
        self.reasoning: str | None = None
        self.text: str | None = None
        self.calls: list[ToolCall] = []

    def taken(self) -> Iterator[Message]:
        """The message, if there is one; begins a new one."""
        if self.reasoning is not None or self.text is not None or self.calls:
            yield Message(
                role="assistant",
                content=self.text or "",
                reasoning=self.reasoning,
                tool_calls=tuple(self.calls),
            )
        self.reasoning = self.text = None
        self.calls = []


def _text(content: str | list[Text]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
