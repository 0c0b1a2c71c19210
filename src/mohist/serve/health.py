"""Whether the server lives, and whether it can answer: judged by tokens, not by good will.

An engine at work is judged by its last step and by the rows that it computes. One that is idle is asked for a
token, at most once in a while: an engine that takes requests but decodes nothing must not pass for healthy.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from mohist.serve.access import OPEN_PATH
from mohist.serve.local import LocalModel
from mohist.serve.openai_reply import ErrorBody
from mohist.serve.service import Service
from mohist.serve.worker import EngineWorker
from mohist.types import Request, SamplingParams

__all__ = ["Readiness", "refusals", "routes"]

PROBE = Request(prompt=(0,), params=SamplingParams(max_tokens=1, temperature=0.0))


class Readiness:
    """What keeps a server from answering, found out when somebody asks."""

    def __init__(
        self, service: Service, *, stuck_s: float, fresh_s: float = 10.0, patience_s: float = 5.0
    ) -> None:
        """An engine is stuck when it computes nothing for `stuck_s`, or no token for `patience_s` while idle.

        A decoded token counts for `fresh_s`.
        """
        self._service = service
        self._stuck_s, self._fresh_s, self._patience_s = stuck_s, fresh_s, patience_s
        self._decoded_s: WeakKeyDictionary[EngineWorker, float] = WeakKeyDictionary()
        self._seen: WeakKeyDictionary[EngineWorker, tuple[int, float]] = WeakKeyDictionary()
        """Rows computed by an engine at work, and when they were first as many."""
        self._probes: WeakKeyDictionary[EngineWorker, asyncio.Task[None]] = WeakKeyDictionary()

    async def problems(self) -> dict[str, str]:
        """What is wrong, by the model's name or `server`; empty for a server that can answer."""
        if self._service.draining:
            return {"server": "is about to end"}
        workers = {
            name: backend.worker
            for name, backend in self._service.models.loaded.items()
            if isinstance(backend, LocalModel)
        }
        found = await asyncio.gather(*map(self._problem, workers.values()))
        return {name: problem for name, problem in zip(workers, found, strict=True) if problem}

    async def _problem(self, worker: EngineWorker) -> str:
        if not worker.alive:
            return "its thread has ended"
        silent_s = worker.silent_s
        if silent_s >= self._stuck_s:
            return f"no step has ended for {silent_s:.0f} s"
        probe = self._probes.get(worker)
        if probe is None or probe.done():
            if worker.stats.running or worker.stats.waiting:
                return self._stalled(worker)
            self._seen.pop(worker, None)
            if time.monotonic() - self._decoded_s.get(worker, -self._fresh_s) < self._fresh_s:
                return ""
            probe = self._probes[worker] = asyncio.ensure_future(self._decode(worker))
        # One probe at a time, however often somebody asks: a stuck engine must not gather them.
        before = worker.stats.computed_tokens
        await asyncio.wait([probe], timeout=self._patience_s)
        if probe.done():
            return "" if probe.exception() is None else "decoding a token failed"
        busy = worker.stats.computed_tokens > before
        return "" if busy else f"no token was decoded within {self._patience_s:g} s"

    def _stalled(self, worker: EngineWorker) -> str:
        """Whether an engine at work computes anything: steps that end are not enough."""
        now_s, count = time.monotonic(), worker.stats.computed_tokens
        seen_count, since_s = self._seen.setdefault(worker, (count, now_s))
        if seen_count != count:
            self._seen[worker] = (count, now_s)
        elif now_s - since_s >= self._stuck_s:
            return f"nothing was computed for {now_s - since_s:.0f} s"
        return ""

    async def _decode(self, worker: EngineWorker) -> None:
        with closing(await worker.submit(PROBE)) as job:
            async for _ in job:
                self._decoded_s[worker] = time.monotonic()


def refusals() -> dict[int | str, dict[str, Any]]:
    """What the gate may say instead of a route, for the OpenAPI document."""
    texts = {401: "No valid API key", 403: "Not from this page or under this name"}
    return {status: {"model": ErrorBody, "description": text} for status, text in texts.items()}


def routes(readiness: Readiness) -> APIRouter:
    """GET /health/live and /health/ready."""
    router = APIRouter(tags=["health"])

    @router.get(OPEN_PATH)
    async def live() -> dict[str, str]:
        """The process runs and its event loop turns. Asks for no key."""
        return {"status": "live"}

    @router.get(
        "/health/ready",
        responses=refusals() | {503: {"description": "It cannot answer now; `problems` says why"}},
    )
    async def ready() -> JSONResponse:
        """Every loaded model decodes tokens, and new requests are taken."""
        problems = await readiness.problems()
        body: dict[str, Any] = {"status": "not ready" if problems else "ready", "problems": problems}
        return JSONResponse(body, status_code=503 if problems else 200)

    return router
