"""A module that serves in `mohist.tasks.workers`, and does whatever it is asked to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mohist.errors import ConfigError


def start(setup: Any) -> Any:
    if setup == "a mistake":
        raise ConfigError("task.base = 'a mistake': it must be a number")
    if setup == "an error":
        raise ZeroDivisionError("no base")
    if setup == "an exit":
        os._exit(3)
    return [setup]


def handle(state: Any, request: Any) -> Any:
    match request:
        case {"add": number}:
            state[0] += number
            return state[0]
        case {"write": path}:
            Path(path).write_text("x")
        case {"fork": _}:
            os.fork()
        case {"raise": message}:
            raise LookupError(message)
        case {"loop": _}:
            while True:
                pass
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"memory": size}:
            return len(bytearray(size))
        case {"reply": size}:
            return "x" * size
        case {"exit": status}:
            os._exit(status)
        case {"abort": _}:
            os.abort()
    return None
