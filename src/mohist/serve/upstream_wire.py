"""OpenAI's dialect from the client's side: an `Ask` to a request, chunks and whole answers to events."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from mohist.chat.delta import TextKind
from mohist.serve.answer import Event, Finished, FinishReason, Piece, Started, TokenInfo, ToolCallPiece, Usage
from mohist.serve.ask import Ask, Shape, Tool
from mohist.serve.errors import ApiError, unavailable
from mohist.serve.upstream_calls import UpstreamCalls
from mohist.types import Message, ToolCall

__all__ = ["Reader", "request_of"]

UNKNOWN_TOKEN = -1
"""The number of a token that only its server knows."""
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


def request_of(ask: Ask, model: str, *, streams: bool) -> tuple[str, dict[str, Any]]:
    """Path and body that ask another server. Raises ApiError for what the dialect cannot say."""
    if ask.thinking_budget is not None:
        raise unavailable("a thinking budget on another server", "thinking")
    body: dict[str, Any] = {"model": model, "n": ask.n, **ask.sampling}
    if ask.n == 1:
        del body["n"]  # Some servers know no `n`.
    if ask.stop:
        body["stop"] = list(ask.stop)
    if streams:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if ask.prompt is None:
        return "chat/completions", body | _chat(ask)
    return "completions", body | _completion(ask)


def _completion(ask: Ask) -> dict[str, Any]:
    if ask.top_logprobs is not None:
        raise unavailable("logprobs of another server's completions", "logprobs")
    body: dict[str, Any] = {"prompt": list(ask.prompt) if isinstance(ask.prompt, tuple) else ask.prompt}
    if ask.suffix is not None:
        body["suffix"] = ask.suffix
    return body | ({"echo": True} if ask.echo else {})


def _chat(ask: Ask) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(message) for message in ask.messages]}
    if ask.continues:
        body["messages"][-1]["prefix"] = True
    if ask.tools:
        body |= {"tools": [_tool(tool) for tool in ask.tools], "tool_choice": ask.tool_choice}
        if ask.tool_name:
            body["tool_choice"] = {"type": "function", "function": {"name": ask.tool_name}}
        if not ask.parallel_tool_calls:
            body["parallel_tool_calls"] = False
    if ask.thinking is not None:
        body["thinking"] = {"type": "enabled" if ask.thinking else "disabled"}
    if ask.effort is not None:
        body["reasoning_effort"] = ask.effort
    if ask.shape.kind != "text":
        body["response_format"] = _format(ask.shape)
    if ask.top_logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": ask.top_logprobs}
    return body


def _message(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        body["reasoning_content"] = message.reasoning
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    return body if message.name is None else body | {"name": message.name}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _format(shape: Shape) -> dict[str, Any]:
    if shape.kind == "json_schema":
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": shape.schema}}
    return {"type": "regex", "regex": shape.pattern} if shape.kind == "regex" else {"type": shape.kind}


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None
    """Given in chunks only."""
    id: str | None = None
    function: _Function = Field(default_factory=_Function)


class _Text(BaseModel):
    """A message, or what is new in it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _TopLogprob(BaseModel):
    token: str
    logprob: float
    spelled: Annotated[list[Annotated[int, Field(ge=0, le=255)]] | None, Field(alias="bytes")] = None

    @property
    def data(self) -> bytes:
        return self.token.encode() if self.spelled is None else bytes(self.spelled)


class _Logprob(_TopLogprob):
    top_logprobs: list[_TopLogprob] = Field(default_factory=list)


class _Logprobs(BaseModel):
    content: list[_Logprob] | None = None
    reasoning_content: list[_Logprob] | None = None


class _Choice(BaseModel):
    index: int = 0
    delta: _Text | None = None
    message: _Text | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None


class _Details(BaseModel):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_cache_hit_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None

    def usage(self) -> Usage:
        cached = self.prompt_cache_hit_tokens
        if cached is None and self.prompt_tokens_details is not None:
            cached = self.prompt_tokens_details.cached_tokens
        details = self.completion_tokens_details or _Details()
        return Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=cached or 0,
            completion_tokens=self.completion_tokens,
            reasoning_tokens=details.reasoning_tokens or 0,
        )


class _Chunk(BaseModel):
    """A chunk, or a whole answer, which is one large chunk."""

    choices: list[_Choice] = Field(default_factory=list)
    usage: _Usage | None = None
    system_fingerprint: str | None = None
    error: Any = None


class Reader:
    """Turns what another server sends, in its order, into events. Every method may raise ApiError."""

    def __init__(self, name: str, ask: Ask) -> None:
        self._name = name
        self._n = ask.n
        self._wants_receipt = ask.receipt
        self._seed = ask.sampling.get("seed", 0)
        self._started = False
        self._calls = [UpstreamCalls(choice) for choice in range(ask.n)]
        self._reasons: list[FinishReason | None] = [None] * ask.n
        self._usage = Usage()
        self._num_pieces = [0] * ask.n

    def push(self, data: bytes) -> list[Event]:
        """The events of one chunk, or of a whole answer."""
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError as error:
            raise self._broken("sent what is no chat completion") from error
        if chunk.error is not None:
            raise self._broken("reported an error")
        events: list[Event] = [] if self._started else [self._start(chunk)]
        if chunk.usage is not None:
            self._usage = chunk.usage.usage()
        for choice in chunk.choices:
            events += self._choice(choice)
        return events

    def finish(self) -> list[Event]:
        """The last events: what was held back, and how every choice ended."""
        events: list[Event] = []
        for i, reason in enumerate(self._reasons):
            if reason is None:
                raise self._broken("broke off in the middle of its answer")
            events += self._calls[i].finish(complete=reason != "length")
            # It counts all choices together.
            events.append(Finished(choice=i, reason=reason, usage=Usage() if i else self._usage))
        return events

    def _start(self, chunk: _Chunk) -> Started:
        self._started = True
        return Started(
            model=self._name,
            fingerprint=chunk.system_fingerprint or "",
            thinks=False,
            prompt_tokens=0,
            seed=self._seed,
            ignored=("receipt",) if self._wants_receipt else (),
        )

    def _choice(self, choice: _Choice) -> list[Event]:
        i = choice.index
        if not 0 <= i < self._n:
            raise self._broken("sent a choice that was not asked for")
        if choice.finish_reason is not None:
            if choice.finish_reason not in _REASONS:
                raise self._broken(f"gave up on its answer: {choice.finish_reason[:40]}")
            self._reasons[i] = _REASONS[choice.finish_reason]
        text = choice.delta or choice.message or _Text(content=choice.text)
        logprobs = choice.logprobs or _Logprobs()
        events: list[Event] = []
        reasoning = text.reasoning_content or text.reasoning
        if reasoning:
            piece = self._piece(i, "reasoning", reasoning, logprobs.reasoning_content)
            events += self._calls[i].text(piece)
        if text.content:
            events += self._calls[i].text(self._piece(i, "content", text.content, logprobs.content))
        for position, call in enumerate(text.tool_calls or []):
            events += self._call(i, position if call.index is None else call.index, call)
        return events

    def _piece(self, choice: int, kind: TextKind, text: str, logprobs: list[_Logprob] | None) -> Piece:
        # Its tokens are not told; a piece has at least one.
        self._num_pieces[choice] += 1
        count = self._num_pieces[choice]
        return Piece(choice=choice, kind=kind, text=text, tokens=_tokens(logprobs), num_tokens=count)

    def _call(self, choice: int, number: int, call: _Call) -> list[Event]:
        self._num_pieces[choice] += 1
        piece = ToolCall(
            name=call.function.name or "", arguments=call.function.arguments or "", id=call.id or ""
        )
        try:
            events = self._calls[choice].push(number, piece)
        except ValueError as error:
            raise self._broken(str(error)) from error
        count = self._num_pieces[choice]
        return [replace(one, num_tokens=count) if isinstance(one, ToolCallPiece) else one for one in events]

    def _broken(self, what: str) -> ApiError:
        return ApiError(502, f"the server behind {self._name} {what}", type="server_error", code="upstream")


def _tokens(logprobs: list[_Logprob] | None) -> tuple[TokenInfo, ...]:
    return tuple(
        TokenInfo(
            token=UNKNOWN_TOKEN,
            data=one.data,
            logprob=one.logprob,
            top=tuple((top.data, top.logprob) for top in one.top_logprobs),
        )
        for one in logprobs or []
    )
