"""Requests in OpenAI's and DeepSeek's dialect as they arrive: their fields and types.

Field names are those of the two APIs. Unknown fields are kept, so that they can be reported as ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Body", "ChatBody", "CompletionBody", "MessageBody", "ToolBody", "unknown_fields"]

Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]


class Body(BaseModel):
    """Types are taken strictly: "1" is no number."""

    model_config = ConfigDict(extra="allow", strict=True)
    asked: ClassVar[Mapping[str, str]] = {}
    """Where fields of the `Ask` come from that are called otherwise here."""


class TextPart(Body):
    """A part of a message. Models of text read only text."""

    type: Literal["text"]
    text: str


class CalledFunction(Body):
    """Which function was called, with the JSON text of its arguments."""

    name: str
    arguments: str


class ToolCallBody(Body):
    """A call in the conversation so far."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageBody(Body):
    """One message; `developer` is another name for `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """Another name for `reasoning_content`."""
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool | None = None
    """On the last message, the assistant's: the answer goes on with it."""

    @model_validator(mode="after")
    def is_complete(self) -> Self:
        """Only the assistant's messages may lack content; a tool's say which call they answer."""
        if self.role != "assistant" and self.content is None:
            raise ValueError("missing field `content`")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("missing field `tool_call_id`")
        return self


class FunctionBody(Body):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class ToolBody(Body):
    """A tool."""

    type: Literal["function"]
    function: FunctionBody


class FunctionName(Body):
    """Names a function."""

    name: str


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionName


class ThinkingBody(Body):
    """DeepSeek's switch. `adaptive` leaves it to the model."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None


class SchemaBody(Body):
    """A named JSON schema."""

    name: str = ""
    schema_: Annotated[Any, Field(alias="schema")]
    strict: bool | None = None


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaFormat(Body):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: SchemaBody


class RegexFormat(Body):
    """Text that a regular expression matches as a whole."""

    type: Literal["regex"]
    regex: str


ResponseFormat = Annotated[TextFormat | JsonFormat | SchemaFormat | RegexFormat, Field(discriminator="type")]


class StreamOptions(Body):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None


class TemplateSwitches(Body):
    """Qwen's way to switch thinking."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class SamplingBody(Body):
    """What chat and completions have in common."""

    model: str = "default"
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    receipt: bool | None = None
    """Mohist's own: give what is needed to replay the answer."""


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    asked: ClassVar = {"effort": "reasoning_effort"}
    messages: list[MessageBody]
    max_completion_tokens: int | None = None
    """OpenAI's newer name for `max_tokens`; goes before it."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: list[ToolBody] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    thinking: ThinkingBody | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "ultra", "max"] | None = (
        None
    )
    chat_template_kwargs: TemplateSwitches | None = None


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None


def unknown_fields(body: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted names of fields, nested ones included, that mean nothing here."""
    for name in body.model_extra or {}:
        yield prefix + name
    for name in type(body).model_fields:
        value = getattr(body, name)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, BaseModel):
                yield from unknown_fields(item, f"{prefix}{name}.")
