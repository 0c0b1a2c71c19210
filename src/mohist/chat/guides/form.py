"""What a request may ask of an answer's form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mohist.errors import RequestError

__all__ = ["Form", "ToolForm"]


@dataclass(frozen=True, kw_only=True)
class ToolForm:
    """A tool, as far as the form of its calls goes."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The JSON schema of its arguments, an object."""
    strict: bool = True
    """Whether arguments must fit the schema; otherwise any JSON object does."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form that an answer must have. Thinking is free; what follows it is not."""

    schema: Mapping[str, Any] | None = None
    """The answer is JSON that fits this schema (`JSON_OBJECT`: any object)."""
    pattern: str | None = None
    """The answer matches this regular expression as a whole."""
    tools: tuple[ToolForm, ...] = ()
    """Calls of these may stand in the answer, or be all of it."""
    calls: Literal["free", "strict", "required"] = "free"
    """Calls are as the model makes them, have the right form wherever they stand, or are all there is."""
    parallel: bool = True
    """Whether there may be more than one call."""
    thinking_budget: int | None = None
    """Most tokens of thinking; then it is closed, and the answer begins."""

    def __post_init__(self) -> None:
        if self.schema is not None and self.pattern is not None:
            raise RequestError("schema and pattern: an answer has one form; give only one of them")
        if self.calls == "required" and (self.schema is not None or self.pattern is not None):
            raise RequestError("calls are required, so nothing else can be: drop the schema or pattern")
        if self.calls != "free" and not self.tools:
            raise RequestError(f"calls = {self.calls!r}: there are no tools to call")
        if self.thinking_budget is not None and self.thinking_budget < 0:
            raise RequestError(f"thinking_budget = {self.thinking_budget}: it must be at least 0")

    @property
    def is_free(self) -> bool:
        """Whether nothing is asked for."""
        return not self.has_grammar and self.thinking_budget is None

    @property
    def has_grammar(self) -> bool:
        """Whether a grammar says which tokens the answer, or a call in it, may have."""
        return self.schema is not None or self.pattern is not None or self.calls != "free"

    @property
    def is_whole(self) -> bool:
        """Whether the answer as a whole has a form, and not only the calls in it."""
        return self.schema is not None or self.pattern is not None or self.calls == "required"

    @property
    def offered(self) -> list[Mapping[str, Any]] | None:
        """The tools as parsers of answers take them; None where others may be called too."""
        if not self.tools and self.schema is None and self.pattern is None:
            return None
        return [{"function": {"name": tool.name, "parameters": tool.parameters}} for tool in self.tools]
