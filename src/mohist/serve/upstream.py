"""Another server behind a model's name: any that speaks OpenAI's dialect, such as DeepSeek's or vLLM.

Its address, key and prices come from the operator's config and from nowhere else; redirects are not followed.
Asks are written and answers read in `upstream_wire`; here are the connection and what can go wrong with it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from mohist.cost import Prices
from mohist.errors import ConfigError
from mohist.serve.answer import Event
from mohist.serve.ask import Ask
from mohist.serve.errors import ApiError
from mohist.serve.upstream_wire import Reader, request_of

__all__ = ["Upstream", "UpstreamConfig"]

CONNECT_S = 10.0
MOST_BYTES = 16 << 20
"""Of one event or one whole answer; more is no answer."""
MOST_MESSAGE_CHARS = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class UpstreamConfig:
    """A model of another server."""

    name: str
    """What requests call it here."""
    url: str
    """Where its API begins, such as https://api.deepseek.com/v1."""
    model: str
    """What it is called there."""
    key_env: str = ""
    """The environment variable that holds the key for it; empty: it asks for none."""
    timeout_s: float = 300.0
    """How long it may be silent."""
    streams: bool = True
    """Whether it can answer piece by piece. If not, the whole answer comes at once."""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"{self.name}: url = {self.url!r}: expected http(s)://HOST[:PORT][/PATH]")
        if parts.username is not None:
            raise ConfigError(f"{self.name}: url: a key in it shows in logs; put it where key_env says")
        if not 0 < self.timeout_s < 86400:
            raise ConfigError(f"{self.name}: timeout_s = {self.timeout_s}: it must be in (0, 86400) seconds")


class Upstream:
    """A `Backend` that passes asks on."""

    def __init__(self, config: UpstreamConfig, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """Raises ConfigError if the key is not in the environment."""
        headers = {}
        if config.key_env:
            key = os.environ.get(config.key_env, "")
            if not key:
                raise ConfigError(f"{config.name}: the environment variable {config.key_env} holds no key")
            headers["authorization"] = f"Bearer {key}"
        self._config = config
        self.prices = config.prices
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(config.timeout_s, connect=min(CONNECT_S, config.timeout_s)),
            limits=httpx2.Limits(max_connections=None),
            transport=transport,
        )

    @property
    def name(self) -> str:
        """What requests call it here."""
        return self._config.name

    async def answer(self, ask: Ask, *, salt: bytes = b"") -> AsyncGenerator[Event]:
        """The events of the other server's answer. Raises ApiError.

        `salt` has no counterpart there: whether it shares prefixes among its callers is its own affair. There
        is no receipt of what another server did; `Started` says so where one was asked for.
        """
        path, body = request_of(ask, self._config.model, streams=self._config.streams)
        reader = Reader(self.name, ask)
        url = f"{self._config.url.rstrip('/')}/{path}"
        try:
            async with self._client.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    raise self._refusal(response, await _limited(response))
                if self._config.streams:
                    async with aclosing(_events(response)) as chunks:
                        async for chunk in chunks:
                            for event in reader.push(chunk):
                                yield event
                else:
                    for event in reader.push(await _limited(response)):
                        yield event
                for event in reader.finish():
                    yield event
        except httpx2.TimeoutException as error:
            raise self._failure(504, "did not answer in time", error) from error
        except httpx2.HTTPError as error:
            raise self._failure(502, "could not be reached or broke off", error) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    def _failure(self, status: int, what: str, error: Exception) -> ApiError:
        _log.warning("upstream failed", extra={"model": self.name, "reason": type(error).__name__})
        return ApiError(status, f"the server behind {self.name} {what}", type="server_error", code="upstream")

    def _refusal(self, response: httpx2.Response, body: bytes) -> ApiError:
        """What the client is told: what it can mend, but nothing about the operator's account."""
        status = response.status_code
        _log.warning("upstream refused", extra={"model": self.name, "status": status})
        if status in (400, 413, 422):
            message = f"the server behind {self.name} refused the request: {_message(body)}"
            return ApiError(status, message, code="upstream")
        if status in (429, 503):
            after = response.headers.get("retry-after", "")
            wait_s = min(3600, max(1, int(after))) if after.isascii() and after.isdecimal() else 5
            message = f"the server behind {self.name} is busy: try again"
            kind = "rate_limit_error" if status == 429 else "overloaded_error"
            return ApiError(status, message, type=kind, code="upstream", retry_after_s=wait_s)
        return ApiError(
            502,
            f"the server behind {self.name} answered with status {status}",
            type="server_error",
            code="upstream",
        )


async def _events(response: httpx2.Response) -> AsyncGenerator[bytes]:
    """The data of server-sent events, up to `[DONE]`."""
    data: list[bytes] = []
    async for line in _lines(response):
        field_name, _, value = line.partition(b":")
        if field_name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            whole = b"\n".join(data)
            if whole.strip() == b"[DONE]":
                return
            yield whole
            data.clear()


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Lines without their ends; what follows the last line end is one as well."""
    rest = b""
    async for piece in response.aiter_bytes():
        *lines, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        if len(rest) > MOST_BYTES:
            raise httpx2.DecodingError("an event without end")
        for line in lines:
            yield line
    for line in (rest, b""):
        yield line


async def _limited(response: httpx2.Response) -> bytes:
    """The whole body."""
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MOST_BYTES:
            raise httpx2.DecodingError("an answer without end")
    return bytes(body)


def _message(body: bytes) -> str:
    """The message in an error's body."""
    try:
        error: Any = json.loads(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        message = "it does not say why"
    return str(message)[:MOST_MESSAGE_CHARS]
