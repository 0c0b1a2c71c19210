"""Logs as JSON, one object a line, without anything that a client wrote.

The message of a record is a constant of the program; what varies is in its `extra` fields. An exception is
logged by its type and where it was raised: its message and the values around it may quote a prompt. What the
web server says through its own loggers goes the same way.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

__all__ = ["JsonFormatter", "configure"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_DEEPEST = 20
"""Frames of a traceback that are kept, counted from where it was raised."""


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: `at`, `level`, `logger`, `message`, the `extra` fields, `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self.message(record),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = describe(record.exc_info[0], record.exc_info[2])
        return json.dumps(line, ensure_ascii=False, default=lambda value: type(value).__name__)

    def message(self, record: logging.LogRecord) -> str:
        """Ours are constants. Others' warnings may quote: only the first line, unfilled, is kept."""
        if record.name.split(".")[0] == "mohist" or record.levelno < logging.WARNING:
            return record.getMessage()
        return str(record.msg).partition("\n")[0]


def describe(kind: type[BaseException], trace: TracebackType | None) -> dict[str, Any]:
    """An exception without its message: its type, and the frames that lead to it."""
    frames = traceback.extract_tb(trace)[-_DEEPEST:]
    return {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }


def configure(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send the logs of the program and of the web server to `stream`. Called once, by the command."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in ("mohist", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
    # The access log is written by `mohist.serve.access`, with request ids and keys.
    logging.getLogger("uvicorn.access").disabled = True
