"""A server for the page's tests: the real page, and answers by script instead of by a model.

The last word of a question says which script: `think`, `slow`, `rich`, `hostile`, `fail`, `busy`, `tool`,
`break`, `echo` (the request, as JSON), anything else a short answer that names the seed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from mohist.serve import page
from mohist.serve.settings import LimitsConfig

SCRIPTS = Path(__file__).parent / "scripts"
THOUGHTS = "First I look at **both** numbers. They are 2 and 2. Adding them gives $2 + 2 = 4$. "


@dataclass
class FakeServer:
    """What a test sees of the server, and how it changes what the server does."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of /v1/chat/completions, as they came."""
    disconnects: int = 0
    """Streams that the page left before their end."""
    key: str = ""
    """The API key to ask for; "" for none."""
    honest: bool = True
    """Whether a replay gives the same answer."""
    doubt: str | None = None
    """What the server says of a replay that differs."""
    admin: bool = True
    """Whether the page may use the operator's routes."""
    models: dict[str, Any] = field(
        default_factory=lambda: {
            "thinker-7b": model("thinker-7b", "hf:example/thinker-7b", "default"),
            "tiny": model("tiny", "tiny.gguf"),
        }
    )
    wanted: list[dict[str, Any]] = field(default_factory=list)
    """Settings of models that were to be loaded."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=lambda: {"default": "thinker-7b"})
    keys: list[dict[str, Any]] = field(default_factory=list)


class Refused(Exception):
    """A request without the key."""


class Forbidden(Exception):
    """A request with the key of somebody who is no admin."""


@contextmanager
def running() -> Generator[FakeServer]:
    """The server, on a free port of 127.0.0.1, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    fake = FakeServer(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(make_app(fake), log_config=None, ws="none", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


def make_app(fake: FakeServer) -> FastAPI:
    """The application, which tells `fake` what happens."""
    app = FastAPI(openapi_url=None)
    app.include_router(page.routes(LimitsConfig(max_body_bytes=1_500_000, max_pdf_bytes=2_000_000)))

    def key(request: Request) -> None:
        if fake.key and request.headers.get("authorization") != f"Bearer {fake.key}":
            raise Refused

    @app.exception_handler(Refused)
    def refused(request: Request, error: Exception) -> Response:
        return problem(401, "no API key: send Authorization: Bearer KEY")

    @app.get("/v1/models", dependencies=[Depends(key)])
    def models() -> dict[str, Any]:
        prices = {
            "currency": "USD",
            "prompt_per_million": 0.2,
            "cached_per_million": 0.02,
            "completion_per_million": 0.6,
        }
        return {
            "object": "list",
            "data": [
                {"id": "default", "object": "model", "alias_of": "thinker-7b", "thinking": "switch"},
                {"id": "thinker-7b", "object": "model", "owned_by": "mohist", "prices": prices},
                {"id": "far", "object": "model", "local": False},
                {"id": "tiny", "object": "model", "thinking": "never", "context_length": 8192},
            ],
        }

    @app.post("/tokenize", dependencies=[Depends(key)])
    async def tokenize(request: Request) -> dict[str, Any]:
        return {"count": len((await request.json())["prompt"].split())}

    @app.post("/v1/replay", dependencies=[Depends(key)])
    async def replay(request: Request) -> dict[str, Any]:
        receipt = await request.json()
        assert receipt["weights"] == "fake"
        difference = {"answer": 0, "index": 3, "expected": [7, -0.5], "found": None}
        return {
            "identical": fake.honest,
            "first_difference": None if fake.honest else difference,
            "doubt": fake.doubt,
        }

    @app.post("/v1/chat/completions", dependencies=[Depends(key)])
    async def chat(request: Request) -> Response:
        body = await request.json()
        fake.requests.append(body)
        script = body["messages"][-1]["content"].split()[-1]
        if script == "fail":
            return problem(400, "the prompt has 9,000 tokens, and 8,192 fit")
        if script == "busy":
            return problem(503, "the queue is full", {"Retry-After": "7"}, code="server_overloaded")
        return StreamingResponse(stream(fake, body, script), media_type="text/event-stream")

    admin(app, fake)
    return app


def admin(app: FastAPI, fake: FakeServer) -> None:
    """The operator's routes, with answers of the shapes that the real ones have."""

    def allowed() -> None:
        if not fake.admin:
            raise Forbidden

    @app.exception_handler(Forbidden)
    def forbidden(request: Request, error: Exception) -> Response:
        return problem(403, "this needs the API key of an admin")

    router = APIRouter(prefix="/admin", dependencies=[Depends(allowed)])

    @router.get("/models")
    def models() -> dict[str, Any]:
        return {"models": list(fake.models.values()), "aliases": fake.aliases, "changes": fake.changes}

    @router.post("/models", status_code=201)
    def load(new: dict[str, Any]) -> Any:
        if new["source"] == "missing":
            return problem(503, "missing: no such model")
        fake.wanted.append(new)
        return fake.models.setdefault(new["name"], model(new["name"], new["source"]))

    @router.delete("/models/{name}", status_code=204)
    def unload(name: str) -> None:
        del fake.models[name]

    @router.put("/aliases")
    def switch(changes: dict[str, str | None]) -> dict[str, str]:
        table = {**fake.aliases, **changes}
        fake.aliases = {alias: target for alias, target in table.items() if target is not None}
        return fake.aliases

    @router.get("/keys")
    def keys() -> list[dict[str, Any]]:
        return fake.keys

    @router.post("/keys", status_code=201)
    def make(new: dict[str, Any]) -> dict[str, Any]:
        limits = {name: new[name] for name in new if name not in ("name", "role")}
        info = {"id": f"{len(fake.keys):012x}", "name": new["name"], "role": new["role"], "limits": limits}
        fake.keys.append({**info, "created_ms": 1_790_000_000_000, "revoked_ms": None, "shares_cache": False})
        return {"key": f"sk-mohist-{info['id']}-secret", "info": fake.keys[-1]}

    @router.patch("/keys/{id}")
    def limit(id: str, limits: dict[str, Any]) -> dict[str, Any]:
        key = next(key for key in fake.keys if key["id"] == id)
        key["limits"] |= limits
        return key

    @router.delete("/keys/{id}", status_code=204)
    def revoke(id: str) -> None:
        next(key for key in fake.keys if key["id"] == id)["revoked_ms"] = 1_790_000_000_001

    @router.get("/usage")
    def usage(by: str, since_ms: int) -> list[dict[str, Any]]:
        fields = {"key_id": None, "key_name": None, "model": None, "day_ms": None, "currency": "CNY"}
        counts = {"choices": 12, "prompt_tokens": 3400, "cached_tokens": 1200, "completion_tokens": 5600}
        named = (
            {"model": "thinker-7b"}
            if by == "model"
            else {"key_id": ""}
            if by == "key"
            else {"day_ms": since_ms}
        )
        return [{**fields, **named, **counts, "reasoning_tokens": 900, "cost_nano": 12_345_000}]

    @router.get("/throughput")
    def throughput() -> list[dict[str, Any]]:
        now_ms = 1_790_000_000_000
        return [
            {
                "at_ms": now_ms + second * 2000,
                "model": name,
                "running": 3,
                "waiting": 1,
                "cache_used": 0.25,
                "generated_per_s": speed * (1 + (second % 7) / 10),
                "computed_per_s": speed * 3.0,
            }
            for second in range(100)
            for name, speed in (("thinker-7b", 180), ("tiny", 60))
        ]

    app.include_router(router)


def model(name: str, source: str, *aliases: str) -> dict[str, Any]:
    state = {
        "state": "loaded",
        "requests": 2,
        "idle_s": 0.0,
        "memory_bytes": 1_234_567_890,
        "error": None,
        "settings": None,
    }
    return {"name": name, "source": source, "aliases": list(aliases), **state}


def problem(
    status: int, message: str, headers: dict[str, str] | None = None, code: str | None = None
) -> JSONResponse:
    error = {"message": message, "type": "x", "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


async def stream(fake: FakeServer, body: dict[str, Any], script: str) -> AsyncIterator[bytes]:
    """Server-sent events of one scripted answer."""
    ended = False
    tokens = 0
    try:
        yield event(delta(role="assistant", content=None, reasoning_content=""))
        async for kind, text, pause_s in pieces(body, script):
            if kind == "break":
                yield event({"error": {"message": "the model was unloaded"}})
                ended = True
                return
            tokens += 1
            yield b": keep-alive\n\n" if tokens == 3 else b""
            yield event(delta(tool_calls=json.loads(text)) if kind == "tool" else delta(**{kind: text}))
            await asyncio.sleep(pause_s)
        usage = {
            "prompt_tokens": 20,
            "completion_tokens": tokens,
            "total_tokens": 20 + tokens,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 5 if script == "think" else 0},
        }
        receipt = {"weights": "fake", "seed": body["seed"]} if body.get("receipt") else None
        last = {"model": "thinker-7b", "usage": usage, "receipt": receipt}
        yield event({**delta(finish="tool_calls" if script == "tool" else "stop"), **last})
        yield b"data: [DONE]\n\n"
        ended = True
    finally:
        fake.disconnects += not ended


async def pieces(body: dict[str, Any], script: str) -> AsyncIterator[tuple[str, str, float]]:
    """(kind, text, seconds to wait after it) of one script."""
    thinks = body.get("thinking", {}).get("type") == "enabled"
    if script == "think" or thinks:
        for word in THOUGHTS.split(" "):
            yield "reasoning_content", word + " ", 0.03
    match script:
        case "slow":
            for number in range(2000):
                yield "content", f"word{number} ", 0.02
        case "rich" | "hostile":
            text = (SCRIPTS / f"{script}.md").read_text(encoding="utf-8")
            for start in range(0, len(text), 17):
                yield "content", text[start : start + 17], 0.001
        case "echo":
            yield "content", "```json\n" + json.dumps(body, ensure_ascii=False) + "\n```", 0
        case "tool":
            yield "tool", '[{"index": 0, "function": {"name": "weather", "arguments": ""}}]', 0
            yield "tool", '[{"index": 0, "function": {"arguments": "{\\"city\\": \\"北京\\"}"}}]', 0
        case "break":
            yield "content", "Half of an ", 0
            yield "break", "", 0
        case _:
            for word in f"The answer is four. Seed {body['seed']}.".split(" "):
                yield "content", word + " ", 0.005


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": fields, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "model": "thinker-7b", "choices": [choice]}


def event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
