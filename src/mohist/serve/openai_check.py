"""What must hold between the fields of a request in OpenAI's dialect, in DeepSeek's words.

The messages and their order are those of DeepSeek's API, which clients may have learnt to read. The
differences are listed in tests/serve/test_deepseek_recipe.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mohist.serve.errors import invalid
from mohist.serve.openai_body import (
    ChatBody,
    CompletionBody,
    JsonFormat,
    MessageBody,
    NamedTool,
    SamplingBody,
    SchemaFormat,
    ToolBody,
)
from mohist.serve.settings import LimitsConfig

__all__ = ["check_chat", "check_completion"]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_LONGEST_TOOL_NAME = 64
_EMPTY = "Expected a string with minimum length 1, but got an empty string instead."


def check_chat(body: ChatBody, limits: LimitsConfig) -> None:
    """Raise the ApiError that fits the first thing that is wrong."""
    tools = body.tools or []
    if len(tools) > limits.max_tools:
        raise invalid(f"{len(tools)} tools: at most {limits.max_tools} are allowed", "tools")
    for i, tool in enumerate(tools):
        _check_tool_name(f"'tools[{i}].function.name'", tool.function.name)
    _check_messages(body.messages, limits)
    if isinstance(body.response_format, JsonFormat):
        _check_mentions_json(body.messages)
    _check_tools(tools)
    _check_named_tool(body)
    _check_stop(body.stop, limits)
    _check_stream_options(body)
    match body.response_format:
        case SchemaFormat(json_schema=schema) if not isinstance(schema.schema_, dict | bool):
            raise invalid("Invalid json schema: it must be an object", "response_format")
    if len({bool(tool.function.strict) for tool in tools}) > 1:
        raise invalid("Cannot use strict tool with non-strict tool in the same request", "tools")
    _check_sampling(body, limits)
    _check_logprobs(body, limits)
    _check_max_tokens("max_tokens", body.max_tokens)
    _check_max_tokens("max_completion_tokens", body.max_completion_tokens)
    if body.tool_choice == "required" and not tools:
        raise invalid("tool_choice needs tools: give some, or leave it out", "tool_choice")


def check_completion(body: CompletionBody, limits: LimitsConfig) -> None:
    """The same for a raw completion. It may ask for no tokens at all, where the prompt is echoed."""
    _check_stop(body.stop, limits)
    _check_stream_options(body)
    _check_sampling(body, limits)
    _check_range("logprobs", body.logprobs, 0, limits.max_top_logprobs)
    if body.max_tokens != 0 or not body.echo or body.n not in (None, 1):
        _check_max_tokens("max_tokens", body.max_tokens)


def _check_sampling(body: SamplingBody, limits: LimitsConfig) -> None:
    _check_range("n", body.n, 1, limits.max_n)
    _check_range("presence_penalty", body.presence_penalty, -2, 2)
    _check_range("frequency_penalty", body.frequency_penalty, -2, 2)
    _check_range("temperature", body.temperature, 0, 2)
    if body.top_p is not None and not 0 < body.top_p <= 1:
        raise invalid("Invalid top_p value, the valid range of top_p is (0, 1.0]", "top_p")


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise invalid(f"Invalid {name} value, the valid range of {name} is [{low}, {high}]", name)


def _check_max_tokens(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise invalid(f"Invalid {name} value, it must be at least 1", name)


def _check_stream_options(body: SamplingBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options should be set along with stream = true", "stream_options")


def _check_stop(stop: str | list[str] | None, limits: LimitsConfig) -> None:
    if isinstance(stop, list) and len(stop) > limits.max_stop:
        raise invalid(f"Stop string array too long: {len(stop)}", "stop")
    texts = {"stop": stop} if isinstance(stop, str) else {f"stop[{i}]": s for i, s in enumerate(stop or [])}
    for name, text in texts.items():
        if not text:
            raise invalid(f"Invalid '{name}': empty string. {_EMPTY}", "stop")
        if len(text) > limits.max_stop_chars:
            raise invalid(
                f"Invalid '{name}': {len(text)} characters, at most {limits.max_stop_chars} are allowed",
                "stop",
            )


def _check_logprobs(body: ChatBody, limits: LimitsConfig) -> None:
    if body.top_logprobs is None:
        return
    if not body.logprobs:
        raise invalid(
            "Invalid top_logprobs and logprobs value, logprobs must be set to true if top_logprobs is used.",
            "top_logprobs",
        )
    if body.top_logprobs > limits.max_top_logprobs:
        message = (
            f"Invalid top_logprobs value, the valid range of top_logprobs is [0, {limits.max_top_logprobs}]."
        )
        raise invalid(message, "top_logprobs")


def _check_messages(messages: Sequence[MessageBody], limits: LimitsConfig) -> None:
    if not messages:
        raise invalid("Empty input messages", "messages")
    if len(messages) > limits.max_messages:
        raise invalid(f"{len(messages)} messages: at most {limits.max_messages} are allowed", "messages")
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        if message.tool_calls is not None and not message.tool_calls:
            raise invalid(
                f"Invalid 'messages[{i}].tool_calls': empty array. Expected an array with minimum length 1, "
                "but got an empty array instead.",
                "messages",
            )
        if message.content is None and not message.tool_calls:
            raise invalid("Invalid assistant message: content or tool_calls must be set", "messages")
    _check_turns(messages)


def _check_turns(messages: Sequence[MessageBody]) -> None:
    """Every call of a tool has its response right after it, and nothing else has one."""
    insufficient = (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
        "'tool_call_id'. (insufficient tool messages following tool_calls message)"
    )
    open_ids: list[str] = []
    for i, message in enumerate(messages):
        if message.role == "tool":
            if not open_ids:
                raise invalid(
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
                    "messages",
                )
            if message.tool_call_id not in open_ids:
                raise invalid(
                    "An assistant message with 'tool_calls' must be followed by tool messages responding to "
                    "each 'tool_call_id', The following tool_call_ids did not have response messages: "
                    f"{message.tool_call_id}",
                    "messages",
                )
            open_ids.remove(message.tool_call_id)
        elif open_ids:
            raise invalid(insufficient, "messages")
        if message.role == "assistant":
            open_ids = [call.id for call in message.tool_calls or []]
        if message.prefix and (message.role != "assistant" or i + 1 < len(messages)):
            raise invalid(
                "Invalid completion message: prefix set true with message which is not final message or "
                "message role is not assistant",
                "messages",
            )
    if open_ids:
        raise invalid(insufficient, "messages")


def _check_tool_name(where: str, name: str) -> None:
    if not name:
        raise invalid(f"Invalid {where}: empty string. {_EMPTY}", "tools")
    if not _TOOL_NAME.fullmatch(name):
        raise invalid(
            f"Invalid {where}: string does not match pattern. Expected a string that matches the pattern "
            "'^[a-zA-Z0-9_-]+$'.",
            "tools",
        )
    if len(name) > _LONGEST_TOOL_NAME:
        raise invalid(
            f"Invalid {where}: string too long. Expected a string with maximum length "
            f"{_LONGEST_TOOL_NAME}, but got a string with length {len(name)} instead.",
            "tools",
        )


def _check_tools(tools: Sequence[ToolBody]) -> None:
    for tool in tools:
        _check_parameters(tool.function.name, tool.function.parameters)
    if len({tool.function.name for tool in tools}) < len(tools):
        raise invalid("Tool names must be unique.", "tools")


def _check_parameters(name: str, parameters: Any) -> None:
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise invalid(f"Invalid schema for function '{name}': it must be an object", "tools")
    if parameters.get("type") != "object":
        kind = parameters.get("type")
        spelled = f"'type: \"{kind}\"'" if isinstance(kind, str) else "'type: null'"
        raise invalid(
            f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"', "
            f"got {spelled}.",
            "tools",
        )


def _check_named_tool(body: ChatBody) -> None:
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        if name not in {tool.function.name for tool in body.tools or []}:
            raise invalid(
                f"Invalid value for 'tool_call': no function named '{name}' was specified in the 'tools' "
                "parameter.",
                "tool_choice",
            )


def _check_mentions_json(messages: Sequence[MessageBody]) -> None:
    if not any("json" in text.lower() for message in messages for text in _texts(message)):
        raise invalid(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type "
            "'json_object'.",
            "response_format",
        )


def _texts(message: MessageBody) -> list[str]:
    if isinstance(message.content, list):
        return [part.text for part in message.content]
    return [message.content or ""]
