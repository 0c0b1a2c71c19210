"""schemathesis against the server's own OpenAPI document: no 5xx, and no answer that is not written there.

Data that fits the document and data that does not; the routes under /v1, of which the others are copies.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serve.servers import Running, serving
from tests.serve.tiny import script_llm

CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    with serving({"script": script_llm()}) as server:
        yield server


@pytest.mark.parametrize("mode", GenerationMode)
def test_every_answer_is_documented(running: Running, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{running.url}/openapi.json").include(path_regex="^/v1/(?!pdf)")
    found: list[Any] = list(document.get_all_operations())
    operations = [one.ok() for one in found]
    assert len(operations) >= 7
    for operation in operations:

        @settings(max_examples=15, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            case.call_and_validate(checks=CHECKED)

        try:
            check()
        except Unsatisfiable:
            # There is no data that does not fit: a route without parameters.
            assert mode is GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
    ],
)
def test_streams_are_documented(running: Running, path: str, body: dict[str, Any]) -> None:
    """Drawn data asks for one only now and then."""
    document = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    case = document[path]["POST"].Case(body={**body, "stream": True}, media_type="application/json")
    reply = case.call_and_validate(checks=CHECKED)
    assert reply.headers["content-type"] == ["text/event-stream; charset=utf-8"]
