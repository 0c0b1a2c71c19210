"""Ends a loop at a safe point: Ctrl-C or a polite kill asks, the loop looks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "on_request"]


class Stop:
    """Whether the end was asked for."""

    def __init__(self) -> None:
        self.requested = False


@contextmanager
def on_request() -> Generator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets `requested`; the second does what it usually does.

    Signals reach the main thread alone; in another one, nothing is ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
