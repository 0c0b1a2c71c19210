"""Tokens of one choice to pieces of its text, each with the tokens that wrote it."""

from __future__ import annotations

import codecs
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Protocol

from mohist.chat.delta import Delta
from mohist.chat.tokenizer import Tokenizer
from mohist.engine.sequence import Draw
from mohist.serve.answer import Piece, TokenInfo, ToolCallPiece

__all__ = ["ChoiceText", "RawText", "TextParser", "call_id"]


class TextParser(Protocol):
    """`StreamParser` and `RawText`: tokens in, text out."""

    @property
    def stopped(self) -> bool:
        """Whether a stop token or stop string came."""
        ...

    @property
    def stop_string(self) -> str | None:
        """The stop string that came, if one did."""
        ...

    @property
    def thinking(self) -> bool:
        """Whether text that came now would be thinking."""
        ...

    @property
    def length(self) -> int:
        """Whole characters that the tokens so far spell."""
        ...

    @property
    def inside_character(self) -> bool:
        """Whether the tokens so far end within a character."""
        ...

    def push(self, token: int, /) -> list[Delta]:
        """What this token makes certain."""
        ...

    def finish(self) -> list[Delta]:
        """What was held back."""
        ...


class RawText:
    """A parser for text without chat format: everything is content up to a stop token or stop string."""

    thinking = False

    def __init__(self, tokenizer: Tokenizer, *, stop_tokens: Iterable[int], stop: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._stop_tokens = frozenset(stop_tokens)
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._buffer = ""
        self.stopped = False
        self.stop_string: str | None = None
        self.length = 0

    @property
    def inside_character(self) -> bool:
        """Whether the tokens so far end within a character."""
        return bool(self._decoder.getstate()[0])

    def push(self, token: int, /) -> list[Delta]:
        """What this token makes certain. Stop tokens are not shown, other markup is."""
        if token in self._stop_tokens:
            self.stopped = True
        if self.stopped:
            return []
        return self._feed(self._decoder.decode(self._tokenizer.token_bytes(token)), final=False)

    def finish(self) -> list[Delta]:
        """What was held back, unless a stop string came."""
        return self._feed(self._decoder.decode(b"", final=True), final=True)

    def _feed(self, text: str, *, final: bool) -> list[Delta]:
        self._buffer += text
        self.length += len(text)
        start = self.length - len(self._buffer)
        certain = self._certain(final=final) if self._stop else len(self._buffer)
        shown, self._buffer = self._buffer[:certain], self._buffer[certain:]
        return [Delta("content", shown, place=start)] if shown else []

    def _certain(self, *, final: bool) -> int:
        """How many characters no stop string takes away. What follows one is dropped."""
        found = [(place, stop) for stop in self._stop if (place := self._buffer.find(stop)) >= 0]
        certain = len(self._buffer) - (0 if final else self._held_back())
        if found and min(found)[0] < certain:
            self.stopped = True
            certain, self.stop_string = min(found)
            self._buffer = self._buffer[:certain]
        return certain

    def _held_back(self) -> int:
        """How many characters at the end may begin a stop string."""
        longest = min(len(self._buffer), max(map(len, self._stop)) - 1)
        ends = range(longest, 0, -1)
        return next((n for n in ends if any(stop.startswith(self._buffer[-n:]) for stop in self._stop)), 0)


def call_id(prompt: Sequence[int], choice: int, index: int, name: str) -> str:
    """The id of a call: made of the conversation and its place in the answer, both known when it begins.

    So a stream and a whole answer have the same one, and no two calls of a conversation do.
    """
    where = f"{choice}\0{index}\0{name}".encode("utf-8", "replace")
    digest = blake2b(array("Q", prompt).tobytes() + where, digest_size=12).hexdigest()
    return f"call_{index:02}_{digest}"


class ChoiceText:
    """The text of one choice as it grows."""

    def __init__(
        self,
        choice: int,
        parser: TextParser,
        tokenizer: Tokenizer,
        *,
        with_tokens: bool,
        prompt: Sequence[int] = (),
        start: int = 0,
    ) -> None:
        """`prompt` names the ids of calls; `start`: characters that the choice has before its first token."""
        self._start = start
        self._prompt = prompt
        self._choice = choice
        self._parser = parser
        self._tokenizer = tokenizer
        self._with_tokens = with_tokens
        self._pending: deque[tuple[int, int, Draw]] = deque()
        """Tokens with the places in the answer where their text starts and ends, not yet given out."""
        self.num_tokens = 0
        self.num_reasoning = 0
        self.num_calls = 0
        """Calls that are complete."""
        self._num_begun = 0

    @property
    def stopped(self) -> bool:
        """Whether the answer is over, whatever the model would go on with."""
        return self._parser.stopped

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended it, if one did."""
        return self._parser.stop_string

    def push(self, draw: Draw) -> list[Piece | ToolCallPiece]:
        """What the next token makes certain."""
        parser = self._parser
        start, thinking = parser.length, parser.thinking
        deltas = parser.push(draw.token)
        self.num_tokens += 1
        self.num_reasoning += thinking or parser.thinking
        if self._with_tokens and (parser.length > start or parser.inside_character):
            self._pending.append((start, max(parser.length, start + 1), draw))
        return [self._event(delta) for delta in deltas]

    def finish(self) -> list[Piece | ToolCallPiece]:
        """What was held back until the end."""
        return [self._event(delta) for delta in self._parser.finish()]

    def _event(self, delta: Delta) -> Piece | ToolCallPiece:
        if delta.kind == "tool_call":
            return self._call(delta)
        until = delta.place + len(delta.text)
        tokens = tuple(self._tokens_until(delta.place, until)) if self._with_tokens else ()
        return Piece(
            choice=self._choice,
            kind=delta.kind,
            text=delta.text,
            tokens=tokens,
            num_tokens=self.num_tokens,
        )

    def _call(self, delta: Delta) -> ToolCallPiece:
        begins = delta.begins
        if begins is not None:
            begins = replace(begins, id=call_id(self._prompt, self._choice, self._num_begun, begins.name))
            self._num_begun += 1
        self.num_calls += delta.complete
        return ToolCallPiece(
            choice=self._choice,
            index=self._num_begun - 1,
            text=delta.text,
            begins=begins,
            complete=delta.complete,
            num_tokens=self.num_tokens,
        )

    def _tokens_until(self, start: int, end: int) -> Iterable[TokenInfo]:
        """The pending tokens that wrote text in start..end; what wrote only text before it is dropped."""
        while self._pending and self._pending[0][0] < end:
            token_start, token_end, draw = self._pending.popleft()
            if token_end > start:
                yield self._info(draw, self._start + token_start)

    def _info(self, draw: Draw, place: int) -> TokenInfo:
        spelled = self._tokenizer.token_bytes
        return TokenInfo(
            token=draw.token,
            data=spelled(draw.token),
            logprob=draw.logprob,
            place=place,
            top=tuple((spelled(token), logprob) for token, logprob in draw.top),
        )
