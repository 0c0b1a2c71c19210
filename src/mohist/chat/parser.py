"""What turns the tokens of an answer into text: `PlainText`, or the `StreamParser` of a chat format."""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import Protocol

from mohist.chat.delta import Delta
from mohist.chat.tokenizer import Tokenizer
from mohist.types import Message

__all__ = ["Parser", "PlainText"]


class Parser(Protocol):
    """Turns tokens into pieces of text, one token at a time."""

    @property
    def stopped(self) -> bool:
        """Whether the answer is over, whatever the model would go on with."""
        ...

    def push(self, token: int, /) -> list[Delta]:
        """The pieces that this token completes."""
        ...

    def finish(self) -> list[Delta]:
        """What was held back until the end."""
        ...

    def message(self) -> Message:
        """All pieces as the assistant's message."""
        ...


class PlainText:
    """A parser for text without chat format: bytes in, whole characters out. Stop tokens are not shown."""

    def __init__(self, tokenizer: Tokenizer, stop_tokens: Collection[int]) -> None:
        self._tokenizer, self._stop_tokens = tokenizer, stop_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._texts: list[str] = []
        self.stopped = False

    def push(self, token: int, /) -> list[Delta]:
        """The characters that this token completes."""
        self.stopped = self.stopped or token in self._stop_tokens
        return [] if self.stopped else self._pieces(self._decoder.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> list[Delta]:
        """A replacement character, if the text ends inside one."""
        return self._pieces(self._decoder.decode(b"", final=True))

    def message(self) -> Message:
        """The text as a message."""
        return Message(role="assistant", content="".join(self._texts))

    def _pieces(self, text: str) -> list[Delta]:
        self._texts.append(text)
        return [Delta("content", text)] if text else []
