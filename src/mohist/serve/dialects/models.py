"""GET /v1/models and /v1/models/NAME: what may be asked for. Also without /v1."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Response

from mohist.cost import Prices
from mohist.serve.errors import ApiError
from mohist.serve.local import LocalModel
from mohist.serve.openai_reply import ModelEntry, ModelList, documented
from mohist.serve.openai_shape import error_body
from mohist.serve.routes import error_route
from mohist.serve.service import Service
from mohist.serve.upstream import Upstream
from mohist.serve.wire import JsonReply

__all__ = ["routes"]


def routes(service: Service) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=error_route(error_body), tags=["models"])

    async def models() -> Response:
        return JsonReply({"object": "list", "data": [entry(service, name) for name in service.models.names]})

    async def model(name: str) -> Response:
        if name not in service.models.names:
            raise ApiError(404, f"no model is called {name}", param="model", code="model_not_found")
        return JsonReply(entry(service, name))

    for prefix in ("/v1", "", "/beta"):
        router.add_api_route(f"{prefix}/models", models, responses=documented(ModelList))
        router.add_api_route(f"{prefix}/models/{{name:path}}", model, responses=documented(ModelEntry))
    return router


def entry(service: Service, name: str) -> dict[str, Any]:
    """A model or alias as OpenAI lists it, with what clients want to know besides."""
    target = service.models.aliases.get(name, name)
    adapter = service.models.adapter(name)
    backend = service.models.loaded.get(target if adapter is None else target.rpartition(":")[0])
    known: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": service.started_at,
        "owned_by": "mohist",
        "local": not isinstance(backend, Upstream),
    }
    if target != name:
        known["alias_of"] = target
    prices = service.models.prices(target)
    if prices != Prices(currency=prices.currency):
        known["prices"] = asdict(prices)
    if isinstance(backend, LocalModel):
        known |= {
            "context_length": backend.llm.engine.capacity,
            "thinking": backend.llm.chat.thinking_mode,
            "system_fingerprint": backend.llm.fingerprint_with(adapter),
        }
    return known
