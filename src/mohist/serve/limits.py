"""How much one key may ask for: requests a minute, tokens a minute, requests at once.

The two rates are buckets that hold a minute's worth and fill evenly: a pause saves up at most one minute.
Tokens are charged when they are known, at the end of an answer, so a bucket may go into debt; then nothing
more is admitted until the debt has been filled up. Limits that change hold from the key's next request on.
Use a `Limiter` from one thread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from mohist.errors import ConfigError

__all__ = ["KeyLimits", "LimitError", "Limiter"]


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyLimits:
    """What one key may use; None: as much as there is."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Prompt tokens, cached ones included, and generated tokens."""
    concurrent_requests: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not 1 <= value < 2**53:
                raise ConfigError(f"{entry.name} = {value}: at least 1, or nothing for no limit")


class LimitError(Exception):
    """A request is over a limit of its key. `retry_after_s` is when to come back, a whole number >= 1."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Bucket:
    """Holds up to `capacity`, gains that much in a minute, begins full."""

    __slots__ = ("_clock", "_level", "_updated_s", "capacity")

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        self.capacity = capacity
        self._clock = clock
        self._level = float(capacity)
        self._updated_s = clock()

    @property
    def level(self) -> float:
        """What is there now; negative in debt."""
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._updated_s) * self.capacity / 60)
        self._updated_s = now
        return self._level

    def resize(self, capacity: int) -> None:
        """Hold another amount. The share that is there, or in debt, stays: as many seconds fill it up."""
        self._level = self.level * capacity / self.capacity
        self.capacity = capacity

    def seconds_to(self, level: float) -> float:
        """How long it takes to fill up to `level`, if nothing is taken."""
        return max(0.0, (level - self.level) * 60 / self.capacity)

    def take(self, amount: int) -> None:
        """Take out, into debt if need be."""
        self._level = self.level - amount


class _Account:
    """What one key has used."""

    __slots__ = ("limits", "requests", "running", "tokens")

    def __init__(self) -> None:
        self.limits = KeyLimits()
        self.running = 0
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None

    def take_over(self, limits: KeyLimits, clock: Callable[[], float]) -> None:
        """From now on these are the limits, whatever runs or was used under others."""
        if limits != self.limits:
            self.limits = limits
            self.requests = _resized(self.requests, limits.requests_per_minute, clock)
            self.tokens = _resized(self.tokens, limits.tokens_per_minute, clock)


def _resized(bucket: Bucket | None, capacity: int | None, clock: Callable[[], float]) -> Bucket | None:
    if bucket is None or capacity is None:
        return None if capacity is None else Bucket(capacity, clock)
    bucket.resize(capacity)
    return bucket


class Limiter:
    """Counts what every key uses. Accounts are few: one for each key that has asked for anything."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def enter(self, key_id: str, limits: KeyLimits) -> None:
        """Admit one request, which must `leave` again, or raise LimitError with nothing taken."""
        account = self._account(key_id, limits)
        most = limits.concurrent_requests
        if most is not None and account.running >= most:
            raise LimitError(f"this key may have {most} requests at once, and they are running", 1)
        if account.requests is not None and account.requests.level < 1:
            _refuse("requests", account.requests, 1)
        if account.tokens is not None and account.tokens.level <= 0:
            _refuse("tokens", account.tokens, 1)
        if account.requests is not None:
            account.requests.take(1)
        account.running += 1

    def leave(self, key_id: str) -> None:
        """One request that entered has ended, however."""
        self._accounts[key_id].running -= 1

    def charge(self, key_id: str, tokens: int) -> None:
        """Take `tokens` off the key's minute; of a key that never entered, nothing is known or kept."""
        account = self._accounts.get(key_id)
        if account is not None and account.tokens is not None:
            account.tokens.take(tokens)

    def headers(self, key_id: str) -> dict[str, str]:
        """The customary headers on what is left: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`."""
        account = self._accounts.get(key_id)
        if account is None:
            return {}
        found: dict[str, str] = {}
        for name, bucket in (("requests", account.requests), ("tokens", account.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{name}"] = str(bucket.capacity)
                found[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                found[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_to(bucket.capacity):.3f}s"
        return found

    def _account(self, key_id: str, limits: KeyLimits) -> _Account:
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = _Account()
        account.take_over(limits, self._clock)
        return account


def _refuse(what: str, bucket: Bucket, needed: int) -> None:
    raise LimitError(
        f"this key may use {bucket.capacity} {what} a minute, and has used them",
        max(1, math.ceil(bucket.seconds_to(needed))),
    )
