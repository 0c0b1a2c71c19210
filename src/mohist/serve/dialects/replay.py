"""POST /v1/replay: an answer's receipt in, whether the answer comes out the same again."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel

from mohist.errors import RequestError
from mohist.receipt import Receipt
from mohist.serve.answer import Usage
from mohist.serve.errors import ApiError, invalid
from mohist.serve.local import LocalModel
from mohist.serve.openai_reply import documented
from mohist.serve.openai_shape import error_body
from mohist.serve.routes import error_route, principal, request_id
from mohist.serve.service import Service
from mohist.serve.wire import JsonReply, unless_client_leaves

__all__ = ["routes"]


class DifferenceEntry(BaseModel):
    """Where the replay came out otherwise first: token and logprob in the receipt and now."""

    answer: int
    index: int
    expected: tuple[int, float] | None
    found: tuple[int, float] | None


class ReplayReply(BaseModel):
    """How it went."""

    identical: bool
    model: str
    num_tokens: int
    """How many were compared."""
    first_difference: DifferenceEntry | None
    doubt: str | None
    """What a difference may come from besides the answer itself, if there is a difference."""


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=error_route(error_body), tags=["receipts"])

    async def replay(body: Annotated[dict[str, Any], Body()], request: Request) -> Response:
        try:
            receipt = await asyncio.to_thread(Receipt.from_json, body)
        except RequestError as error:
            raise invalid(error) from error
        if len(receipt.answers) > service.limits.max_n:
            raise invalid(f"{len(receipt.answers)} answers: at most {service.limits.max_n} are allowed")
        name, who = holder(service, receipt), principal(request)
        began_s = time.monotonic()
        async with service.borrow(name, who) as model:
            work = model.replay(receipt, salt=who.salt)
            difference = await unless_client_leaves(request, work)
            count = sum(len(answer.tokens) for answer in receipt.answers)
            usage = Usage(prompt_tokens=len(receipt.prompt), completion_tokens=count)
            seconds = time.monotonic() - began_s
            service.meter.record(who, request_id(request), model.name, usage, "replay", seconds)
        found = None if difference is None else dataclasses.asdict(difference)
        return JsonReply(
            {
                "identical": difference is None,
                "model": name,
                "num_tokens": count,
                "first_difference": found,
                "doubt": None if difference is None else receipt.doubt,
            }
        )

    router.add_api_route(
        "/v1/replay",
        replay,
        methods=["POST"],
        response_class=JsonReply,
        responses=documented(ReplayReply),
    )
    return router


def holder(service: Service, receipt: Receipt) -> str:
    """The loaded model that the receipt is for. Raises ApiError."""
    for name, backend in service.models.loaded.items():
        if isinstance(backend, LocalModel) and receipt.fits(backend.llm):
            return name
    raise ApiError(
        404,
        f"no loaded model is {receipt.fingerprint} ({receipt.model}), for which the receipt is: load it, or "
        "replay the receipt elsewhere with `mohist replay`",
        code="model_not_found",
    )
