"""A child process that answers in lines, and cannot hold its parent up: every wait ends at a deadline."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

__all__ = ["Channel", "ChannelError", "Closed", "Flood", "Late"]

PIECE_BYTES = 1 << 16
KILL_S = 10.0
"""Time for the kernel to take away a killed process, in seconds."""


class ChannelError(Exception):
    """A child did not do its part."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel.name)
        self.channel = channel


class Late(ChannelError):
    """The deadline passed."""


class Closed(ChannelError):
    """The child ended or closed its pipes."""


class Flood(ChannelError):
    """The child sent more than it may."""


class Channel:
    """A process, and the lines to and from it. Use it as a context: its end is the end of the process.

    `deadline_s` below is a time of `time.monotonic()`.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], max_bytes: int | None = None
    ) -> None:
        """Start `command`; with `max_bytes`, that is how much it may send in all. `name` is for errors."""
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        self._received = bytearray()
        self._bytes_left = max_bytes

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, line: bytes, *, deadline_s: float) -> None:
        """Write `line`. Raises Late or Closed."""
        rest = memoryview(line)
        while rest:
            self._wait(self._to, select.POLLOUT, deadline_s)
            try:
                rest = rest[os.write(self._to, rest[:PIECE_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Closed(self) from None

    def receive(self, *, deadline_s: float) -> bytes:
        """The next line, with its end. Raises Late, Closed or Flood."""
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            piece = self._read(deadline_s)
            if not piece:
                raise Closed(self)
            if self._bytes_left is not None:
                self._bytes_left -= len(piece)
                if self._bytes_left < 0:
                    raise Flood(self)
            self._received += piece
        line = bytes(self._received[: end + 1])
        del self._received[: end + 1]
        return line

    def close(self) -> None:
        """Kill the process if it still runs, and wait until all that it started is gone too.

        Whoever holds the other end of the pipe is still there; the end of a jail takes everyone in it along.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(KILL_S)
        deadline_s = time.monotonic() + KILL_S
        with suppress(Late):
            while self._read(deadline_s):
                pass
        self._process.stdout.close()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def status(self, *, within_s: float) -> int | None:
        """The exit status of a process that is ending by itself; None if it does not end in time."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def last_words(self) -> str:
        """The last line that the process wrote on standard error, of what is there to read by now."""
        assert self._process.stderr is not None
        said = self._process.stderr.read(PIECE_BYTES) or b""
        return (said.decode(errors="replace").strip().splitlines() or [""])[-1]

    def _read(self, deadline_s: float) -> bytes:
        """Some bytes; none at the end. Raises Late."""
        self._wait(self._from, select.POLLIN, deadline_s)
        return os.read(self._from, PIECE_BYTES)

    def _wait(self, descriptor: int, event: int, deadline_s: float) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise Late(self)
