"""The `Meter` of a server with keys: limits at the door, usage and prices at the end, metrics all along."""

from __future__ import annotations

import time
from collections.abc import Callable

from mohist.cost import Prices
from mohist.serve.access import Principal
from mohist.serve.answer import Usage
from mohist.serve.errors import ApiError, overloaded
from mohist.serve.limits import Limiter, LimitError
from mohist.serve.metrics import Metrics
from mohist.serve.usage import UsageEntry, UsageWriter, cost_nano

__all__ = ["Metering"]


class Metering:
    """Puts limits, usage and metrics together. Used on the event loop."""

    def __init__(
        self,
        *,
        limiter: Limiter,
        writer: UsageWriter,
        metrics: Metrics,
        prices: Callable[[str], Prices],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """`prices` are those of a model by its name."""
        self._limiter = limiter
        self._writer = writer
        self._metrics = metrics
        self._prices = prices
        self._now_ms = now_ms

    def enter(self, principal: Principal) -> None:
        """Admit a request. Raises ApiError: 429 over a limit, 503 where usage could not be kept."""
        if self._writer.full:
            raise overloaded("the server cannot write down what is used: try again later", 30)
        try:
            self._limiter.enter(principal.key_id, principal.limits)
        except LimitError as error:
            raise ApiError(
                429,
                str(error),
                type="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=error.retry_after_s,
            ) from error

    def leave(self, principal: Principal) -> None:
        """A request that entered has ended."""
        self._limiter.leave(principal.key_id)

    def progress(self, model: str, seconds: float, *, first: bool) -> None:
        """Text came."""
        if first:
            self._metrics.first_token(model, seconds)
        else:
            self._metrics.next_token(model, seconds)

    def record(
        self, principal: Principal, request_id: str, model: str, usage: Usage, reason: str, seconds: float
    ) -> None:
        """A choice has ended."""
        prices = self._prices(model)
        cost = cost_nano(
            prices,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
        )
        self._writer.add(
            UsageEntry(
                at_ms=self._now_ms(),
                request_id=request_id,
                key_id=principal.key_id,
                model=model,
                prompt_tokens=usage.prompt_tokens,
                cached_tokens=usage.cached_tokens,
                completion_tokens=usage.completion_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                cost_nano=cost,
                currency=prices.currency,
            )
        )
        self._limiter.charge(principal.key_id, usage.prompt_tokens + usage.completion_tokens)
        self._metrics.finished(model, reason, usage, seconds=seconds)

    def headers(self, principal: Principal) -> dict[str, str]:
        """What is left of the caller's limits, under the customary names."""
        return self._limiter.headers(principal.key_id)

    def answered(self, status: int) -> None:
        """A response began."""
        if status >= 400:
            self._metrics.refused(status)
