"""The form that an answer must have, of what its `Ask` says."""

from __future__ import annotations

from mohist.chat.guides.guides import Form, ToolForm
from mohist.chat.guides.schema import JSON_OBJECT
from mohist.errors import RequestError
from mohist.serve.ask import Ask

__all__ = ["form_of"]


def form_of(ask: Ask) -> Form:
    """What guides the drawing of tokens; a free form asks for nothing. Raises RequestError."""
    tools = tuple(
        ToolForm(
            name=tool.name,
            parameters=tool.parameters or {"type": "object", "properties": {}},
            strict=tool.strict,
        )
        for tool in ask.tools
        if ask.tool_choice != "none" and ask.tool_name in ("", tool.name)
    )
    strict = any(tool.strict for tool in tools)
    form = Form(
        schema={"json_object": JSON_OBJECT, "json_schema": ask.shape.schema or {}}.get(ask.shape.kind),
        pattern=ask.shape.pattern if ask.shape.kind == "regex" else None,
        tools=tools,
        calls="required" if ask.tool_choice == "required" else "strict" if strict else "free",
        parallel=ask.parallel_tool_calls and not ask.tool_name,
        thinking_budget=ask.thinking_budget,
    )
    if ask.continues and (form.is_whole or form.calls == "strict"):
        raise RequestError(
            "the answer was begun already, so its form cannot be kept: drop the prefix or the form"
        )
    return form
