"""The model's answer as it comes: tokens to text, and text to answer, thinking and tool calls.

Two layers. A `Splitter` works on text in pieces of any size; it holds back what may still become a tag.
`StreamParser` feeds it the text of tokens, holding back bytes that may still become a character. How the text
was cut never changes what comes out in total.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mohist.chat.calls import schemas_of
from mohist.chat.channels import ChannelSplitter
from mohist.chat.delta import Delta, DeltaKind, calls_in
from mohist.chat.format import ChatFormat
from mohist.chat.splitter import Splitter
from mohist.chat.tag_splitter import TagSplitter
from mohist.chat.tokenizer import Tokenizer
from mohist.types import Message

__all__ = ["Delta", "StreamParser", "splitter"]


def splitter(
    chat_format: ChatFormat,
    *,
    thinking: bool = False,
    stop: Iterable[str] = (),
    tools: Sequence[Mapping[str, Any]] | None = None,
    parallel: bool = True,
) -> Splitter:
    """The splitter for answers in `chat_format`.

    `thinking`: the prompt opened it. `stop` strings end the answer. `tools` are those that were offered:
    where there were none, what looks like a call is text; None reads calls of any tools. Where calls are not
    `parallel`, the first that is complete ends the answer.
    """
    if tools is not None and not tools:
        chat_format = chat_format.without_tools
    kind = TagSplitter if chat_format.channels is None else ChannelSplitter
    return kind(chat_format, thinking=thinking, stop=stop, schemas=schemas_of(tools), parallel=parallel)


class StreamParser:
    """Turns the tokens of one answer into deltas, and in the end into a `Message`. Used once."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_format: ChatFormat,
        *,
        stop_tokens: Sequence[int] = (),
        thinking: bool = False,
        stop: Iterable[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        parallel: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = {
            token for token, text in tokenizer.markup.items() if text not in chat_format.answer_markup
        }
        self._stop_tokens = frozenset(stop_tokens)
        self._splitter = splitter(chat_format, thinking=thinking, stop=stop, tools=tools, parallel=parallel)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._ended = False
        self._deltas: list[Delta] = []

    @property
    def stopped(self) -> bool:
        """Whether a stop token, a stop string or the only call ended the answer: nothing more will come."""
        return self._ended or self._splitter.done

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the answer, if one did."""
        return self._splitter.stop_string

    @property
    def thinking(self) -> bool:
        """Whether text that came now would be thinking, as far as is known."""
        return self._splitter.thinking

    @property
    def undecided(self) -> bool:
        """Whether the answer may still turn out to be nothing but calls, without any mark before them."""
        return self._splitter.undecided

    @property
    def calling(self) -> bool:
        """Whether text that came now would be part of calls."""
        return self._splitter.calling

    @property
    def length(self) -> int:
        """Whole characters that the tokens so far spell, tags included."""
        return self._splitter.length

    @property
    def inside_character(self) -> bool:
        """Whether the tokens so far end within a character."""
        return bool(self._decoder.getstate()[0])

    def push(self, token: int) -> list[Delta]:
        """What `token` makes certain. Stop tokens, and markup that is no part of answers, are never shown."""
        if self.stopped:
            return []
        if token in self._stop_tokens:
            self._ended = True
            return []
        if token in self._hidden:
            return []
        text = self._decoder.decode(self._tokenizer.token_bytes(token))
        return self._keep(self._splitter.feed(text)) if text else []

    def finish(self) -> list[Delta]:
        """The rest, once no token will follow."""
        text = self._decoder.decode(b"", final=True)
        return self._keep([*self._splitter.feed(text), *self._splitter.finish()])

    def message(self) -> Message:
        """The answer as far as it came; complete after `finish`. Thinking that never was is None."""
        return Message(
            role="assistant",
            content=self._joined("content") or "",
            reasoning=self._joined("reasoning"),
            tool_calls=calls_in(self._deltas),
        )

    def _keep(self, deltas: list[Delta]) -> list[Delta]:
        self._deltas += deltas
        return deltas

    def _joined(self, kind: DeltaKind) -> str | None:
        texts = [delta.text for delta in self._deltas if delta.kind == kind]
        return "".join(texts) if texts else None
