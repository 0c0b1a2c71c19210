"""The operator's API under /admin: models, aliases, keys, usage, live throughput. It asks for an admin's key.

What is changed here is kept in the database and lasts: see `changes` for models and aliases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from mohist.config import from_dict
from mohist.errors import ConfigError
from mohist.serve.access import Role
from mohist.serve.changes import Change, Changes
from mohist.serve.database import Database
from mohist.serve.errors import ApiError, invalid
from mohist.serve.keys import KeyRing, Keys
from mohist.serve.limits import KeyLimits
from mohist.serve.loading import ModelConfig
from mohist.serve.models import Models, ModelState
from mohist.serve.openai_reply import ErrorBody
from mohist.serve.openai_shape import error_body
from mohist.serve.routes import error_route, principal
from mohist.serve.throughput import Moment, Throughput
from mohist.serve.usage import Grouping, UsageSum, report

__all__ = ["routes"]

Count = Annotated[int, Field(ge=1, lt=2**53)]
Time = Annotated[int, Query(ge=0, le=2**62)]


def _read_model(data: Any) -> ModelConfig:
    """A model's settings, read and refused as the config file's are."""
    if not isinstance(data, Mapping):
        raise PydanticCustomError("settings", "a model's settings are an object")
    try:
        return from_dict(ModelConfig, data)
    except ConfigError as error:
        raise PydanticCustomError("settings", "{reason}", {"reason": str(error)}) from error


NewModel = Annotated[ModelConfig, BeforeValidator(_read_model)]
"""A model to load, with all that `[[models]]` in the config file can say of one."""


class AllModels(BaseModel):
    """What the server has."""

    models: list[ModelState]
    aliases: dict[str, str]
    changes: list[Change]
    """Where the config says otherwise."""


class NewKey(BaseModel):
    """A key to make."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=200)]
    role: Role = "user"
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None
    shares_cache: bool = False


class NewLimits(BaseModel):
    """Limits of a key that exists. Those that are left out stay; null is no limit."""

    model_config = ConfigDict(extra="forbid")
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent_requests: Count | None = None


class KeyInfo(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    role: Role
    created_ms: int
    revoked_ms: int | None
    limits: KeyLimits
    shares_cache: bool


class MadeKey(BaseModel):
    """A new key. `key` is shown this once."""

    key: str
    info: KeyInfo


def routes(
    models: Models,
    changes: Changes,
    keys: Keys,
    ring: KeyRing,
    database: Database,
    throughput: Throughput,
) -> APIRouter:
    """All routes under /admin."""
    router = APIRouter(
        prefix="/admin",
        tags=["admin"],
        route_class=error_route(error_body),
        dependencies=[Depends(_admin)],
        responses={
            status: {"model": ErrorBody, "description": text}
            for status, text in {
                400: "Something in the request is wrong",
                401: "No valid API key",
                403: "Not an admin's key",
                413: "The body is too large",
                500: "The server failed",
            }.items()
        },
    )
    _model_routes(router, models, changes)
    _key_routes(router, keys, ring)

    @router.get("/usage")
    async def usage(
        since_ms: Time = 0,
        until_ms: Time = 2**62,
        by: Annotated[list[Grouping], Query()] = ["key", "model"],  # noqa: B006 (FastAPI copies it)
        key_id: str | None = None,
    ) -> list[UsageSum]:
        """Tokens and costs of a time, added up by what `by` names: key, model, day."""
        return await asyncio.to_thread(
            report, database, since_ms=since_ms, until_ms=until_ms, by=by, key_id=key_id
        )

    @router.get("/throughput")
    async def live() -> list[Moment]:
        """Tokens a second of the last minutes, the oldest first."""
        return throughput.moments

    return router


def _model_routes(router: APIRouter, models: Models, changes: Changes) -> None:
    """Models come and go, and aliases are switched, while requests run."""
    conflict: dict[int | str, dict[str, Any]] = {
        409: {"model": ErrorBody, "description": "The name is in use"}
    }
    not_done: dict[int | str, dict[str, Any]] = {
        503: {"model": ErrorBody, "description": "It cannot be loaded, or the change cannot be kept"}
    }
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such model"}}

    @router.get("/models")
    async def all_models() -> AllModels:
        """Every model with its state, what the aliases stand for, and where the config says otherwise."""
        return AllModels(models=models.states(), aliases=dict(models.aliases), changes=changes.all)

    @router.post("/models", status_code=201, responses=conflict | not_done)
    async def load(new: NewModel) -> ModelState:
        """Load a further model. Answers when it is ready, which may take minutes."""
        await models.add(new)
        return models.state(new.called)

    @router.delete("/models/{name:path}", status_code=204, responses=conflict | unknown | not_done)
    async def unload(name: str) -> None:
        """Take a model away. New requests do not find it from now on; answers when its last one has ended."""
        await models.remove(name)

    @router.get("/aliases")
    async def aliases() -> dict[str, str]:
        """What every alias stands for."""
        return dict(models.aliases)

    @router.put("/aliases", responses=not_done)
    async def switch(wanted: dict[str, str | None]) -> dict[str, str]:
        """Let aliases stand for other models, all at once or none; null takes one away.

        Requests that run end on the model that they began with.
        """
        await models.switch(wanted)
        return dict(models.aliases)


def _key_routes(router: APIRouter, keys: Keys, ring: KeyRing) -> None:
    """Keys are made, limited and revoked."""
    unknown: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody, "description": "No valid key has this id"}
    }

    def not_found(id: str) -> ApiError:
        return ApiError(404, f"{id!r}: no valid key has this id", param="id", code="key_not_found")

    @router.get("/keys")
    async def all_keys() -> list[KeyInfo]:
        """All keys, revoked ones too, without their secrets."""
        return [KeyInfo(**record.public()) for record in await asyncio.to_thread(keys.all)]

    @router.post("/keys", status_code=201)
    async def make(new: NewKey) -> MadeKey:
        """Make a key. It is shown in the answer to this request and nowhere else."""
        given = new.model_dump(exclude={"name", "role", "shares_cache"})
        try:
            record, key = await asyncio.to_thread(
                keys.create, new.name, role=new.role, limits=KeyLimits(**given), shares_cache=new.shares_cache
            )
        except ConfigError as error:
            raise invalid(error, "name") from error
        await asyncio.to_thread(ring.refresh)
        return MadeKey(key=key, info=KeyInfo(**record.public()))

    @router.patch("/keys/{id}", responses=unknown)
    async def limit(id: str, new: NewLimits) -> KeyInfo:
        """Change limits of a key; they hold from its next request on."""
        changes = new.model_dump(exclude_unset=True)
        record = await asyncio.to_thread(keys.limit, id, changes)
        if record is None:
            raise not_found(id)
        await asyncio.to_thread(ring.refresh)
        return KeyInfo(**record.public())

    @router.delete("/keys/{id}", status_code=204, responses=unknown)
    async def revoke(id: str) -> None:
        """Make a key invalid at once and for good."""
        if not await asyncio.to_thread(keys.revoke, id):
            raise not_found(id)
        await asyncio.to_thread(ring.refresh)


def _admin(request: Request) -> None:
    if principal(request).role != "admin":
        raise ApiError(403, "this needs the API key of an admin", type="permission_error")
