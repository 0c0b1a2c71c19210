from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Generator
from typing import Any

import pytest

from tests.serve.live import logged

SECRET = "meet me at the bridge"


@pytest.fixture
def stream() -> Generator[io.StringIO]:
    with logged() as stream:
        yield stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    logging.getLogger("mohist.serve").info(
        "request", extra={"request_id": "r1", "status": 200, "note": "a\nb 好"}
    )
    (line,) = lines(stream)
    at = line.pop("at")
    assert at.endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "mohist.serve",
        "message": "request",
        "request_id": "r1",
        "status": 200,
        "note": "a\nb 好",
    }


def test_an_exception_is_logged_by_its_type_and_place(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError(SECRET)

    try:
        fail()
    except ValueError:
        logging.getLogger("mohist.serve").exception("a request failed")
    (line,) = lines(stream)
    assert line["error"]["type"] == "builtins.ValueError"
    assert line["error"]["frames"][-1].endswith(" fail")
    assert SECRET not in stream.getvalue()


def test_a_lost_task_says_nothing_of_its_exception(stream: io.StringIO) -> None:
    async def fail() -> None:
        raise ValueError(SECRET)

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(fail())
        await asyncio.sleep(0.01)
        del task

    asyncio.run(main())
    assert [line["message"] for line in lines(stream)] == ["Task exception was never retrieved"]
    assert SECRET not in stream.getvalue()


def test_warnings_of_the_web_server_are_not_filled_in(stream: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").warning("Invalid request: %s", SECRET)
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "http://127.0.0.1")
    logging.getLogger("uvicorn.access").info("GET /?q=%s", SECRET)
    assert [line["message"] for line in lines(stream)] == [
        "Invalid request: %s",
        "Uvicorn running on http://127.0.0.1",
    ]


def test_what_is_no_json_is_named_by_its_type(stream: io.StringIO) -> None:
    logging.getLogger("mohist.serve").info("odd", extra={"value": object()})
    assert lines(stream)[0]["value"] == "object"
