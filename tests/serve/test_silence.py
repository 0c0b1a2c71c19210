"""What people write is in no log, however their requests end."""

from __future__ import annotations

import json
from typing import Any

from mohist.serve.database import usage
from tests.serve.live import Live, logged, wait_for

SECRET = "bluebird"

QUESTION = {"messages": [{"role": "user", "content": f"my password is {SECRET}"}], "max_tokens": 4}
BAD: list[tuple[str, Any]] = [
    ("wrong type", {"messages": [{"role": SECRET, "content": SECRET}]}),
    ("unknown field", QUESTION | {SECRET: SECRET}),
    ("wrong range", QUESTION | {"temperature": 9, "user": SECRET}),
    ("unknown model", QUESTION | {"model": SECRET}),
    ("tool", QUESTION | {"tools": [{"type": "function", "function": {"name": f"{SECRET}!"}}]}),
    ("schema", QUESTION | {"response_format": {"type": "json_schema", "json_schema": {"schema": SECRET}}}),
    ("regex", QUESTION | {"response_format": {"type": "regex", "regex": f"({SECRET}"}}),
    ("stop", QUESTION | {"stop": [SECRET * 1000]}),
    ("template", QUESTION | {"chat_template_kwargs": {SECRET: "{{ " + SECRET + " }}"}}),
    ("too long", {"messages": [{"role": "user", "content": SECRET * 200}]}),
    ("no JSON", f'{{"messages": {SECRET}'),
    ("bad UTF-8", SECRET.encode() + b'\xff{"'),
    ("half a surrogate", '{"messages":[{"role":"user","content":"\\ud800 ' + SECRET + '"}]}'),
    ("deep", "[" * 100_000 + SECRET),
]


def test_prompts_are_in_no_log(server: Live) -> None:
    paths = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/v1/messages", "/v1/responses"]
    statuses = set()
    with logged() as log:
        for path in paths:
            for name, body in [*BAD, ("good", QUESTION), ("stream", QUESTION | {"stream": True})]:
                content = body if isinstance(body, str | bytes) else json.dumps(body)
                headers = {"content-type": "application/json", "user-agent": SECRET, "x-note": SECRET}
                response = server.client.post(path, content=content, headers=headers)
                assert response.status_code < 500, (path, name, response.text)
                statuses.add(response.status_code)
        for path in [f"/v1/models/{SECRET}", f"/{SECRET}", f"/v1/models?x={SECRET}", f"/admin/keys/{SECRET}"]:
            server.client.get(path)
            server.client.delete(path)
        response = server.client.get("/v1/models", headers={"authorization": f"Bearer {SECRET}"})
        response = server.client.get("/v1/models", headers={"authorization": f"{SECRET} {SECRET}"})
        expected = len(paths) * (len(BAD) + 2) + 8 + 2
        wait_for(lambda: log.getvalue().count('"message": "request"') == expected)
        written = log.getvalue()
    assert {200, 400} <= statuses
    lines = [json.loads(line) for line in written.splitlines()]
    requests = [line for line in lines if line["message"] == "request"]
    assert {line["route"] for line in requests} >= {"/v1/chat/completions", "/admin/keys/{id}", ""}
    assert all(line["request_id"].startswith("req_") for line in requests)
    assert len({line["request_id"] for line in requests}) == len(requests)
    assert SECRET not in written


def test_a_request_has_the_same_id_in_log_response_and_usage(server: Live) -> None:
    with logged() as log:
        id = server.chat("hello").headers["x-request-id"]
        wait_for(lambda: id in log.getvalue())

    def metered() -> bool:
        with server.operations.database.reading() as connection:
            return connection.execute(usage.select().where(usage.c.request_id == id)).first() is not None

    wait_for(metered)
