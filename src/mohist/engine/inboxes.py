"""Where events wait until somebody takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from mohist.engine.sequence import Event, TokenEvent

__all__ = ["Inboxes"]


class Inboxes:
    """An inbox for every group of requests that is followed, and one for the events of all others."""

    def __init__(self) -> None:
        self._others: list[Event] = []
        self._followed: dict[int, deque[Event]] = {}

    def __bool__(self) -> bool:
        """Whether events of requests that nobody follows are waiting."""
        return bool(self._others)

    def put(self, event: Event) -> None:
        """Keep an event for whoever follows its request. The last one of a request ends the following."""
        self._followed.get(event.id, self._others).append(event)
        if not isinstance(event, TokenEvent):
            self._followed.pop(event.id, None)

    def take(self) -> list[Event]:
        """The events of requests that nobody follows, in order, since the last call."""
        events, self._others = self._others, []
        return events

    def follow(self, ids: Iterable[int]) -> deque[Event]:
        """The inbox, empty now, that the events of these requests will come to."""
        inbox: deque[Event] = deque()
        self._followed.update(dict.fromkeys(ids, inbox))
        return inbox
