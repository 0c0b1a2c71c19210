"""What a client asks for, whichever dialect it asked in. There is no HTTP in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mohist.chat.format import Effort
from mohist.types import Message

__all__ = ["Ask", "Shape", "ShapeKind", "Tool", "ToolChoice"]

ToolChoice = Literal["auto", "none", "required"]
ShapeKind = Literal["text", "json_object", "json_schema", "regex"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A function that the model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    """Whether the arguments must fit the schema, which then guides the drawing of tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """The form that the answer, after any thinking, must have."""

    kind: ShapeKind = "text"
    schema: Any = None
    """For "json_schema"."""
    pattern: str = ""
    """For "regex"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request: a conversation (`messages`) or a raw text (`prompt`) to be answered `n` times."""

    model: str
    """A model's name or an alias."""
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    """A raw text or its tokens, to be continued without chat format. Then `messages` is empty."""
    suffix: str | None = None
    """With `prompt` as text: what comes after the part that is to be filled in."""
    echo: bool = False
    """With `prompt`: begin the answer with the prompt, and its logprobs where they are asked for."""
    continues: bool = False
    """Whether the last message, the assistant's, is the beginning of the answer."""

    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    tool_name: str = ""
    """The one tool that must be called, with `tool_choice` "required"."""
    parallel_tool_calls: bool = True
    thinking: bool | None = None
    """None leaves it to the model's template."""
    effort: Effort | None = None
    thinking_budget: int | None = None
    """Most tokens of thinking; then it is closed and the answer begins."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `SamplingParams` that the client set. The others are the model's own recommendation."""
    n: int = 1
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are no part of it."""
    shape: Shape = field(default_factory=Shape)
    top_logprobs: int | None = None
    """How many alternatives to report with each token's logprob; None: report no logprobs."""
    adapter: str | None = None
    """A LoRA adapter of the model, which its name asked for."""
    receipt: bool = False
    """Whether to give what is needed to replay the answer."""
