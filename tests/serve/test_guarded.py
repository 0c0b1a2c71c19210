"""A server that others can reach: every route asks for a key, and who may do what."""

from __future__ import annotations

import base64
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mohist.errors import ConfigError
from mohist.serve.access import OPEN_PATH, Access
from mohist.serve.app import Gate, make_app
from mohist.serve.keys import SHARED_SALT
from mohist.serve.limits import KeyLimits
from mohist.serve.loading import ModelConfig
from mohist.serve.models import Models
from mohist.serve.operations import Operations
from mohist.serve.service import Service
from mohist.serve.settings import ServeConfig, ServerConfig
from tests.serve.live import Live, wait_for


def all_routes(routes: list[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, however deep; parameters are filled in."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is not None:
            yield from all_routes(router.routes)
        else:
            path = re.sub(r"\{[^}]*\}", "x", route.path)
            yield from ((method, path) for method in route.methods or ["GET"])


def routes_of(server: Live) -> list[tuple[str, str]]:
    operations = server.operations
    gate = make_app(operations.service, operations.access, routers=operations.routers())
    assert isinstance(gate, Gate)
    assert isinstance(gate.app, FastAPI)
    return sorted(set(all_routes(list(gate.app.routes))))


def test_every_route_asks_for_a_key(guarded: Live) -> None:
    routes = routes_of(guarded)
    paths = {path for _, path in routes}
    assert {
        "/v1/chat/completions",
        "/v1/models",
        "/metrics",
        "/health/ready",
        "/admin/keys",
        "/openapi.json",
    } <= paths
    assert len(routes) > 20
    for method, path in routes:
        for sent in [{}, {"authorization": "Bearer sk-mohist-000000000000-x"}, {"x-api-key": "x"}]:
            response = guarded.client.request(method, path, headers=sent, content=b"{}")
            assert response.status_code == (200 if path == OPEN_PATH else 401), (method, path, sent)
            if path != OPEN_PATH and method != "HEAD":
                error = response.json()
                assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
                assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        *["/health/live/", "//health/live", "/health/live//", "/health/./live", "/x/../health/live"],
        *[
            "/health/live/../../admin/keys",
            "/health/live/%2e%2e/%2e%2e/admin/keys",
            "/health/live%2f..%2f..%2fadmin%2fkeys",
        ],
        *[
            "/HEALTH/LIVE",
            "/health/live;/admin/keys",
            "/health/live%00",
            "/admin/keys?x=/health/live",
            "/no/such/path",
        ],
        *[
            "/health/live#/admin/keys",
            "http://127.0.0.1/admin/keys",
            "http://127.0.0.1/health/live",
            "*",
            "/%2e/admin/keys",
        ],
    ],
)
def test_no_spelling_of_a_path_goes_around_the_gate(guarded: Live, path: str) -> None:
    """Sent as they are: a client library would tidy them up."""
    connection = http.client.HTTPConnection(urlsplit(guarded.url).netloc, timeout=30)
    connection.putrequest("GET", path, skip_host=True)
    connection.putheader("Host", "127.0.0.1")
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status in (400, 401) or (response.status, json.loads(body)) == (
        200,
        {"status": "live"},
    ), body


def test_both_header_styles_and_the_password_of_a_browser(guarded: Live) -> None:
    key = guarded.new_key()
    basic = "Basic " + base64.b64encode(f"me:{key}".encode()).decode()
    for headers in [{"authorization": f"Bearer {key}"}, {"x-api-key": key}, {"authorization": basic}]:
        assert guarded.client.get("/v1/models", headers=headers).status_code == 200
    other = guarded.new_key()
    both = {"authorization": f"Bearer {key}", "x-api-key": other}
    assert guarded.client.get("/v1/models", headers=both).status_code == 401
    assert guarded.client.get("/v1/models", headers=both | {"x-api-key": key}).status_code == 200


def test_a_browser_is_asked_for_the_key_to_the_page(guarded: Live) -> None:
    response = guarded.client.get("/", headers={"accept": "text/html"})
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Basic ")


def test_only_admins_manage(guarded: Live) -> None:
    user, admin = guarded.new_key(), guarded.new_key(role="admin")
    managed = [(method, path) for method, path in routes_of(guarded) if path.startswith("/admin")]
    assert len(managed) >= 8
    for method, path in managed:
        response = guarded.client.request(method, path, headers={"x-api-key": user}, content=b"{}")
        assert response.status_code == 403, (method, path)
        assert response.json()["error"]["type"] == "permission_error"
    for path in ["/admin/models", "/admin/keys", "/admin/aliases", "/admin/usage", "/admin/throughput"]:
        assert guarded.client.get(path, headers={"x-api-key": admin}).status_code == 200


def test_a_key_is_made_used_and_revoked_over_http(guarded: Live) -> None:
    admin = {"x-api-key": guarded.new_key(role="admin")}
    made = guarded.client.post("/admin/keys", headers=admin, json={"name": "Ann", "requests_per_minute": 7})
    assert made.status_code == 201
    key, info = made.json()["key"], made.json()["info"]
    assert guarded.chat("hi", key=key).status_code == 200
    listed = guarded.client.get("/admin/keys", headers=admin)
    assert info in listed.json()
    assert key not in listed.text
    assert "digest" not in listed.text
    assert guarded.client.delete(f"/admin/keys/{info['id']}", headers=admin).status_code == 204
    assert guarded.chat("hi", key=key).status_code == 401
    assert guarded.client.delete(f"/admin/keys/{info['id']}", headers=admin).status_code == 404


def test_a_key_that_another_process_revokes_is_refused_within_seconds(guarded: Live) -> None:
    record, key = guarded.operations.keys.create("made elsewhere")
    assert guarded.chat("hi", key=key).status_code == 401, "not seen yet"
    wait_for(lambda: guarded.chat("hi", key=key).status_code == 200)
    guarded.operations.keys.revoke(record.id)
    wait_for(lambda: guarded.chat("hi", key=key).status_code == 401)


def test_limits_are_answered_with_429_and_the_customary_headers(guarded: Live) -> None:
    key = guarded.new_key(limits=KeyLimits(requests_per_minute=2, tokens_per_minute=120))
    answers = [guarded.chat("hi", key=key) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    assert answers[2].json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    spent = sum(answer.json()["usage"]["total_tokens"] for answer in answers[:2])
    left = int(
        guarded.client.get("/v1/models", headers={"x-api-key": key}).headers["x-ratelimit-remaining-tokens"]
    )
    assert 120 - spent <= left < 120
    assert guarded.chat("hi", key=guarded.new_key()).status_code == 200, "another key is not concerned"


def test_limits_are_changed_over_http_and_hold_at_once(guarded: Live) -> None:
    admin = {"x-api-key": guarded.new_key(role="admin")}
    made = guarded.client.post(
        "/admin/keys", headers=admin, json={"name": "Ann", "requests_per_minute": 1}
    ).json()
    key, path = made["key"], f"/admin/keys/{made['info']['id']}"
    assert [guarded.chat("hi", key=key).status_code for _ in range(2)] == [200, 429]
    wider = guarded.client.patch(
        path, headers=admin, json={"requests_per_minute": None, "tokens_per_minute": 900}
    )
    assert wider.status_code == 200
    limits = {"requests_per_minute": None, "tokens_per_minute": 900, "concurrent_requests": None}
    assert wider.json() == {**made["info"], "limits": limits}
    answer = guarded.chat("hi", key=key)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "900"
    assert "x-ratelimit-limit-requests" not in answer.headers
    for body in ({"requests_per_minute": 0}, {"requests": 5}, {"tokens_per_minute": "many"}, []):
        assert guarded.client.patch(path, headers=admin, json=body).status_code == 400
    assert guarded.client.patch(path, headers={"x-api-key": key}, json={}).status_code == 403
    assert guarded.client.patch("/admin/keys/nobody", headers=admin, json={}).status_code == 404


def test_requests_at_once_are_limited_and_counted_down_when_a_client_leaves(guarded: Live) -> None:
    key = guarded.new_key(limits=KeyLimits(concurrent_requests=1))
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "max_tokens": 150,
        "logit_bias": None,
    }
    for _ in range(3):
        with guarded.client.stream(
            "POST", "/v1/chat/completions", json=body, headers={"x-api-key": key}
        ) as response:
            assert response.status_code == 200
            next(response.iter_bytes())
        wait_for(lambda: guarded.chat("hi", key=key).status_code == 200)


def test_cached_prefixes_are_not_shared_between_keys_unless_both_ask(guarded: Live) -> None:
    text = "a text that is longer than a block of the cache, so that some of it can be shared"

    def cached(key: str) -> int:
        return guarded.chat(text, key=key).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    first, second = guarded.new_key(), guarded.new_key()
    assert cached(first) == 0
    assert cached(first) > 0
    assert cached(second) == 0, "what the first key asked for is none of the second's business"
    shared = [guarded.new_key(shares_cache=True) for _ in range(2)]
    assert cached(shared[0]) == 0
    assert cached(shared[1]) > 0
    salts = [
        principal.salt
        for key in [first, second, *shared]
        if (principal := guarded.operations.ring.principal(key))
    ]
    assert len(set(salts)) == 3
    assert salts[2] == SHARED_SALT


def test_answers_do_not_depend_on_the_key(guarded: Live) -> None:
    answers = [guarded.chat("hello", key=guarded.new_key()).json() for _ in range(2)]
    assert answers[0]["choices"] == answers[1]["choices"]


def test_a_server_does_not_begin_wider_without_keys(tiny_model: Path, tmp_path: Path) -> None:
    config = ServeConfig(
        models=(ModelConfig(source=str(tiny_model)),), data=tmp_path, server=ServerConfig(host="0.0.0.0")
    )
    with pytest.raises(ConfigError, match="there are no API keys: make one with `mohist keys create NAME"):
        Operations(config)


def test_a_request_without_the_gate_is_nobodys() -> None:
    """Were the gate left out, routes would fail instead of taking everybody for an admin."""
    service = Service(Models())
    gate = make_app(service, Access(principal=lambda _: None, required=False))
    assert isinstance(gate, Gate)
    with TestClient(gate.app) as client:
        assert client.get("/admin/keys").status_code == 404, "there are no operations here"
        body = {"model": "x", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=body).status_code == 500


def test_a_live_server_on_this_machine_asks_for_nothing_but_its_own_name(server: Live) -> None:
    assert server.chat("hi").status_code == 200
    assert server.client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert server.client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert server.client.get("/admin/keys").status_code == 200
