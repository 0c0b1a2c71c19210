"""Who asks, and whether he may.

A request says who it is from by `Authorization: Bearer KEY` or `x-api-key: KEY`, as clients of the two
dialects do, or by the password of `Authorization: Basic`, as a browser does that was asked for one. Where
more than one key arrives, they must be the same: none goes before another.

A server that only this machine can reach asks for no key. It is guarded against web pages instead: a browser
would send their requests on, so the `Host` must be this machine's and an `Origin`, where one is given, must
be the server's own.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from mohist.errors import ConfigError
from mohist.serve.limits import KeyLimits

__all__ = ["ANONYMOUS", "OPEN_PATH", "Access", "Principal", "Role", "check_binding", "is_loopback"]

Role = Literal["user", "admin"]
Header = tuple[bytes, bytes]
"""Name in lower case, value, as ASGI has them."""

OPEN_PATH = "/health/live"
"""The one path that never asks for a key."""
KEY_PREFIX = "sk-mohist-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who asks: the owner of a key, or whoever sits at this machine."""

    key_id: str
    """Empty without a key."""
    name: str
    role: Role = "user"
    salt: bytes = field(default=b"", repr=False)
    """Of the prefix cache: prompts share cached prefixes only under one salt."""
    limits: KeyLimits = field(default_factory=KeyLimits)


ANONYMOUS = Principal(key_id="", name="this machine", role="admin")
"""Everybody, where no keys are asked for."""


class AccessError(Exception):
    """A request that may not pass: an HTTP status, a message for its sender, and headers."""

    def __init__(self, status: int, message: str, headers: Iterable[Header] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = list(headers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The rule of one server. `principal` looks a key up; `required` is whether one must be given."""

    principal: Callable[[str], Principal | None]
    required: bool

    def check(self, headers: Iterable[Header]) -> Principal:
        """Who sent a request with these headers. Raises AccessError: 401 for keys, 403 for web pages."""
        headers = list(headers)
        keys = sorted(set(_keys(headers)))
        if len(keys) > 1:
            raise _unauthorized("different API keys in the headers of one request: send only one", headers)
        if self.required and not keys:
            raise _unauthorized("no API key: send Authorization: Bearer KEY, or x-api-key: KEY", headers)
        known = self.principal(keys[0]) if keys else None
        if known is None and keys and (self.required or keys[0].startswith(KEY_PREFIX)):
            raise _unauthorized("this API key is not valid: it may be mistyped or revoked", headers)
        # Only what a script cannot send on behalf of a user shows that the request is the user's own.
        if known is None or _sends_by_itself(headers):
            _check_origin(headers, loopback_only=not self.required)
        return known or ANONYMOUS


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_binding(host: str, num_keys: int, *, require_keys: bool | None = None) -> bool:
    """Whether a server bound to `host` asks for keys. Raises ConfigError where it must and there are none."""
    wide = not is_loopback(host)
    if wide and require_keys is False:
        raise ConfigError(
            f"host = {host!r} with require_keys = false: a server that others can reach asks for keys; "
            "bind 127.0.0.1, or leave require_keys out"
        )
    required = wide or bool(require_keys)
    if required and not num_keys:
        why = f"host = {host!r} can be reached from other machines" if wide else "require_keys = true"
        raise ConfigError(
            f"{why}, and there are no API keys: make one with `mohist keys create NAME --role admin`, "
            "or bind 127.0.0.1 without require_keys"
        )
    return required


def _values(headers: Iterable[Header], name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in headers if key == name]


def _keys(headers: list[Header]) -> list[str]:
    """All keys that a request carries."""
    keys = [value for value in _values(headers, b"x-api-key") if value]
    for value in _values(headers, b"authorization"):
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "bearer":
            keys.append(rest.strip())
        elif scheme.lower() == "basic":
            try:
                decoded = base64.b64decode(rest.strip(), validate=True).decode("latin-1")
            except ValueError as error:
                raise _unauthorized("Authorization: Basic is not base64", headers) from error
            keys.append(decoded.partition(":")[2])
        else:
            raise _unauthorized("Authorization must be `Bearer KEY`", headers)
    return keys


def _sends_by_itself(headers: list[Header]) -> bool:
    """Whether a browser may have added the key, whoever made the request."""
    return any(value[:5].lower() == "basic" for value in _values(headers, b"authorization"))


def _check_origin(headers: list[Header], *, loopback_only: bool) -> None:
    hosts = _values(headers, b"host")
    if loopback_only and not all(is_loopback(_host_name(host)) for host in hosts):
        raise AccessError(
            403,
            "without API keys this server answers to the names of this machine only, such as localhost: to "
            "serve under the Host that was asked for, set require_keys = true",
        )
    for origin in _values(headers, b"origin"):
        if [origin.partition("://")[2]] != hosts:
            raise AccessError(403, "a page of another site may not use this server without a key of its own")


def _host_name(host: str) -> str:
    """`host` without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] or host


def _unauthorized(message: str, headers: list[Header]) -> AccessError:
    # A browser that opens a page is asked for a password; a program is told which header to send.
    browser = any("text/html" in value for value in _values(headers, b"accept"))
    challenge = b'Basic realm="API key as password", charset="UTF-8"' if browser else b"Bearer"
    return AccessError(401, message, [(b"www-authenticate", challenge)])
