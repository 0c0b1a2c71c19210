"""What must hold between the fields of a request in OpenAI's dialect, in DeepSeek's words.

The messages and their order are those of DeepSeek's API, which clients may have learnt to read. The
differences are listed in tests/serve/test_deepseek_recipe.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mohist.serve.errors import ApiError, invalid
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
    if not body.messages:
        raise invalid("Empty input messages", "messages")
    if len(body.messages) > limits.max_messages:
        raise invalid(f"{len(body.messages)} messages: at most {limits.max_messages} are allowed", "messages")
    _check_sampling(body, limits)
    if body.max_completion_tokens is not None and body.max_completion_tokens < 1:
        raise invalid("Invalid max_completion_tokens value, it must be at least 1", "max_completion_tokens")
    _check_logprobs(body, limits)
    for i, message in enumerate(body.messages):
        _check_message(i, message)
    _check_turns(body.messages)
    _check_tools(body.tools or [], limits)
    _check_tool_choice(body)
    _check_format(body)


def check_completion(body: CompletionBody, limits: LimitsConfig) -> None:
    """The same for a raw completion. It may ask for no tokens at all, where the prompt is echoed."""
    if body.max_tokens == 0 and body.echo and body.n in (None, 1):
        body = body.model_copy(update={"max_tokens": 1})
    _check_sampling(body, limits)
    if body.logprobs is not None and body.logprobs > limits.max_top_logprobs:
        raise _range("logprobs", f"[0, {limits.max_top_logprobs}]")


def _check_sampling(body: SamplingBody, limits: LimitsConfig) -> None:
    _check_range("temperature", body.temperature, 0, 2, "[0, 2]")
    if body.top_p is not None and not 0 < body.top_p <= 1:
        raise _range("top_p", "(0, 1.0]")
    _check_range("presence_penalty", body.presence_penalty, -2, 2, "[-2, 2]")
    _check_range("frequency_penalty", body.frequency_penalty, -2, 2, "[-2, 2]")
    if body.max_tokens is not None and body.max_tokens < 1:
        raise invalid("Invalid max_tokens value, it must be at least 1", "max_tokens")
    if body.n is not None and not 1 <= body.n <= limits.max_n:
        raise _range("n", f"[1, {limits.max_n}]")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options should be set along with stream = true", "stream_options")
    _check_stop(body.stop, limits)


def _check_range(name: str, value: float | None, low: float, high: float, spelled: str) -> None:
    if value is not None and not low <= value <= high:
        raise _range(name, spelled)


def _range(name: str, spelled: str) -> ApiError:
    return invalid(f"Invalid {name} value, the valid range of {name} is {spelled}", name)


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


def _check_message(i: int, message: MessageBody) -> None:
    where = f"messages[{i}]"
    if message.role == "assistant":
        if message.tool_calls is not None and not message.tool_calls:
            raise invalid(
                f"Invalid '{where}.tool_calls': empty array. Expected an array with minimum length 1, but "
                "got an empty array instead.",
                "messages",
            )
        if message.content is None and not message.tool_calls and not message.reasoning_content:
            raise invalid("Invalid assistant message: content or tool_calls must be set", "messages")
        return
    if message.content is None:
        raise invalid(f"Invalid '{where}.content': it must be a string or a list of text parts", "messages")
    if message.role == "tool" and message.tool_call_id is None:
        raise invalid(f"Invalid '{where}': missing field `tool_call_id`", "messages")


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


def _check_tools(tools: Sequence[ToolBody], limits: LimitsConfig) -> None:
    if len(tools) > limits.max_tools:
        raise invalid(f"{len(tools)} tools: at most {limits.max_tools} are allowed", "tools")
    for i, tool in enumerate(tools):
        name, where = tool.function.name, f"'tools[{i}].function.name'"
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
        _check_parameters(name, tool.function.parameters)
    if len({tool.function.name for tool in tools}) < len(tools):
        raise invalid("Tool names must be unique.", "tools")
    if len({bool(tool.function.strict) for tool in tools}) > 1:
        raise invalid("Cannot use strict tool with non-strict tool in the same request", "tools")


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


def _check_tool_choice(body: ChatBody) -> None:
    if body.tool_choice in (None, "none", "auto"):
        return
    if not body.tools:
        raise invalid("tool_choice needs tools: give some, or leave it out", "tool_choice")
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        if name not in {tool.function.name for tool in body.tools}:
            raise invalid(
                f"Invalid value for 'tool_call': no function named '{name}' was specified in the 'tools' "
                "parameter.",
                "tool_choice",
            )


def _check_format(body: ChatBody) -> None:
    match body.response_format:
        case JsonFormat():
            written = "\0".join(text for message in body.messages for text in _texts(message))
            if "json" not in written.lower():
                raise invalid(
                    "Prompt must contain the word 'json' in some form to use 'response_format' of type "
                    "'json_object'.",
                    "response_format",
                )
        case SchemaFormat(json_schema=schema) if not isinstance(schema.schema_, dict | bool):
            raise invalid("Invalid json schema: it must be an object", "response_format")


def _texts(message: MessageBody) -> list[str]:
    if isinstance(message.content, list):
        return [part.text for part in message.content]
    return [message.content or ""]
