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
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from mohist.serve import page

RICH = r"""## A heading

Some **bold**, *slanted* and `code`. Inline $e^{i\pi} + 1 = 0$, and prices of $5 and $10.

$$\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}$$

```python
def primes(limit: int) -> list[int]:
    # The sieve of Eratosthenes.
    sieve = [True] * (limit + 1)
    return [n for n in range(2, limit + 1) if sieve[n]]
```

| name | value |
|:-----|------:|
| 兼爱 | 1 |
| 节用 | 2 |

1. first
2. second
   - nested

> A quotation.

- [x] done
- [ ] not done

\[ \boxed{a^2 + b^2 = c^2} \]
"""

HOSTILE = r"""<script>window.hacked = "script"</script>
<img src=x onerror="window.hacked = 'img'">
<svg onload="window.hacked = 'svg'"><animate onbegin="window.hacked = 'animate'" attributeName=x dur=1s></svg>
<iframe srcdoc="<script>parent.hacked = 'iframe'</script>"></iframe>
<style>body { display: none }</style>
<form action="https://evil.example/"><input name=q><button>go</button></form>
<a href="javascript:window.hacked='html link'">html</a>
<math><mtext><table><mglyph><style><img src=x onerror="window.hacked='mutation'"></style></mglyph></table></mtext></math>

[js](javascript:window.hacked='link') [JS](JaVaScRiPt:window.hacked='link2') [data](data:text/html,<script>1</script>)
[tab](java&#x09;script:window.hacked='tab') [vb](vbscript:x) <javascript:window.hacked='auto'>
[ok](https://example.org/?a=1&b="2") ![picture](https://evil.example/leak.png) ![x](javascript:window.hacked='i')

$\href{javascript:window.hacked='katex'}{click}$ $\url{javascript:window.hacked='url'}$
$\includegraphics{https://evil.example/leak.png}$ $\htmlData{x=y}{z}$ $\htmlStyle{position:fixed;inset:0}{z}$
$\htmlId{app}{z}$ $\htmlClass{veil}{z}$ $\unicode{<img src=x onerror=window.hacked=1>}$
$\def\x{\x\x}\x$ $\rule{99999em}{99999em}$ $\kern{-9999em}covered$ $\fbox{x} \pmb{y}$ $\color{red;background:url(x)}{z}$

```"><img src=x onerror=window.hacked='fence'>
</code></pre><script>window.hacked = 'code'</script>
```

```html
<script>window.hacked = 'highlighted'</script>
```

| <script>window.hacked='cell'</script> | a |
|---|---|
| <img src=x onerror="window.hacked='cell2'"> | b |

<span data-math="inline" class="veil" style="position:fixed">\href{javascript:1}{x}</span> <b id="app">x</b>

[ref]: javascript:window.hacked='ref'
[ref]
"""

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


class Refused(Exception):
    """A request without the key."""


@contextmanager
def running() -> Generator[FakeServer]:
    """The server, on a free port of 127.0.0.1, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    fake = FakeServer(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(make_app(fake), log_level="warning", ws="none", timeout_graceful_shutdown=2)
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
    app.include_router(page.routes())

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
                {"id": "default", "object": "model", "owned_by": "mohist", "alias_of": "thinker-7b"},
                {"id": "thinker-7b", "object": "model", "owned_by": "mohist", "prices": prices},
                {"id": "tiny", "object": "model", "owned_by": "mohist"},
            ],
        }

    @app.post("/tokenize", dependencies=[Depends(key)])
    async def tokenize(request: Request) -> dict[str, Any]:
        return {"count": len((await request.json())["prompt"].split())}

    @app.post("/v1/replay", dependencies=[Depends(key)])
    async def replay(request: Request) -> dict[str, Any]:
        receipt = await request.json()
        assert receipt["weights"] == "fake"
        difference = {"position": 3, "expected": " four", "got": " five"}
        return {"identical": fake.honest, "first_difference": None if fake.honest else difference}

    @app.post("/v1/chat/completions", dependencies=[Depends(key)])
    async def chat(request: Request) -> Response:
        body = await request.json()
        fake.requests.append(body)
        script = body["messages"][-1]["content"].split()[-1]
        if script == "fail":
            return problem(400, "the prompt has 9,000 tokens, and 8,192 fit")
        if script == "busy":
            return problem(503, "the queue is full", {"Retry-After": "7"})
        return StreamingResponse(stream(fake, body, script), media_type="text/event-stream")

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse("")

    return app


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x"}}, status_code=status, headers=headers)


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
    thinks = body["thinking"]["type"] == "enabled"
    if script == "think" or thinks:
        for word in THOUGHTS.split(" "):
            yield "reasoning_content", word + " ", 0.03
    match script:
        case "slow":
            for number in range(2000):
                yield "content", f"word{number} ", 0.02
        case "rich" | "hostile":
            text = RICH if script == "rich" else HOSTILE
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
