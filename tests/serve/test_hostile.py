"""Requests that are meant to cost much: refused or answered in little time, and nobody else is harmed."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from mohist.serve.settings import LimitsConfig
from tests.serve.live import Live


def shape(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def regex(pattern: str) -> dict[str, Any]:
    return {"response_format": {"type": "regex", "regex": pattern}}


def nested(schema: Any, _: int) -> Any:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


WIDE = {
    "type": "object",
    "properties": {f"p{i}": {"type": "string", "pattern": "(a+)+$"} for i in range(2000)},
}
TOOL = {"type": "function", "function": {"name": "t", "parameters": WIDE}}

REQUESTS: dict[str, dict[str, Any]] = {
    "regex that backtracks": regex("(a+)+$"),
    "regex that backtracks more": regex("(x+x+)+y"),
    "regex of many states": regex("(a{1,1000}){1,1000}"),
    "regex of more states": regex("((a{0,100}){0,100}){0,100}"),
    "long regex": regex("a|" * 100_000),
    "nested regex": regex("(" * 4000 + "a" + ")" * 4000),
    "regex that looks back": regex(r"(a)\1"),
    "no regex": regex("(("),
    "deep schema": shape(reduce(nested, range(200), {"type": "object"})),
    "wide schema": shape(WIDE),
    "schema of itself": shape({"$ref": "#"}),
    "schema of elsewhere": shape({"$ref": "http://127.0.0.1/x"}),
    "large enum": shape({"enum": [f"{'x' * 50}{i}" for i in range(30_000)]}),
    "large tools": {"tools": [TOOL] * 20},
    "template in a switch": {"chat_template_kwargs": {"enable_thinking": "{{ range(10**9) | list }}"}},
    "template in a message": {
        "messages": [{"role": "user", "content": "{% for i in range(10**9) %}x{% endfor %}"}]
    },
    "template in a role": {"messages": [{"role": "{{ 7 * 7 }}", "content": "x"}]},
    "many messages": {"messages": [{"role": "user", "content": "x"}] * 5000},
    "many stops": {"stop": [str(i) for i in range(1000)]},
    "long stop": {"stop": "x" * 100_000},
    "many choices": {"n": 10**6},
    "many logprobs": {"logprobs": True, "top_logprobs": 10**6},
    "long name": {"messages": [{"role": "user", "content": "x", "name": "n" * 10**6}]},
    "huge number": {"max_tokens": 10**400},
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_a_hostile_request_is_cheap_and_harms_nobody(server: Live, request_name: str) -> None:
    expected = server.chat("hello").json()["choices"]
    body = {"messages": [{"role": "user", "content": "json"}], "max_tokens": 40} | REQUESTS[request_name]
    # What they ask for would take hours; the client waits for a minute.
    response = server.client.post("/v1/chat/completions", json=body)
    assert response.status_code in (200, 400), response.text
    assert server.chat("hello").json()["choices"] == expected
    assert server.client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"[" * 100_000, {}, 400),
        (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"", {}, 400),
        (b"x" * (9 << 20), {}, 413),
        (b"{}", {"x-padding": "x" * (100 << 10)}, 400),
    ],
)
def test_bodies_and_headers_are_bounded(
    server: Live, content: bytes, headers: dict[str, str], status: int
) -> None:
    response = server.client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status
    assert server.client.get("/health/live").status_code == 200


def test_pdf_files_have_a_bound_of_their_own(server: Live) -> None:
    limits = LimitsConfig()
    between = b"%" * (limits.max_body_bytes + 1)
    assert server.client.post("/v1/pdf/text", content=between).status_code == 422, "no PDF, but not too large"
    for content in (b"%" * (limits.max_pdf_bytes + 1), iter([b"%" * (limits.max_pdf_bytes // 2 + 1)] * 2)):
        response = server.client.post("/v1/pdf/text", content=content)
        assert response.status_code == 413
        message = "the body has more than 33,554,432 bytes (limits.max_pdf_bytes)"
        assert response.json()["error"]["message"] == message
