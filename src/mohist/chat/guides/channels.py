"""Grammars for answers in several messages, each with a header: thoughts, remarks, an answer or a call.

The header is part of the grammar, so one grammar holds the answer from its first token on, thoughts included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mohist.chat.format import ChatFormat
from mohist.chat.guides.grammar import json_rule, literal
from mohist.chat.guides.schema import checked_schema
from mohist.chat.tokenizer import Tokenizer

__all__ = ["ChannelGrammar"]


@dataclass(frozen=True, kw_only=True)
class ChannelGrammar:
    """Writes rules for answers in a format with `channels`."""

    tokenizer: Tokenizer
    kind: ChatFormat
    tools: Mapping[str, Mapping[str, Any]]
    """JSON schemas of arguments by name."""
    answer: str | None
    """The right side of a rule for the text of the answer; None: the answer is a call."""
    remarks: bool
    """Whether text may stand before a call or an answer."""
    thinks_once: bool
    """Whether thoughts come in one message at most."""

    def rules(self) -> str:
        """Rules of which `start` is the whole answer, after what begins its first message. RequestError."""
        channels = self.kind.channels
        assert channels is not None
        before, end = self.kind.think[0], self.kind.think[1] + channels.turn
        heads = ["thought" + ("?" if self.thinks_once else "*")]
        rules = f"thought: {self._literal(before)} text {self._literal(end)}\ntext: /(?s:.*)/\n"
        if self.remarks:
            heads = ["(thought | remark)*"]
            rules += f"remark: {self._literal(channels.remark)} text {self._literal(end)}\n"
        lasts = []
        if self.answer is not None:
            lasts.append("final")
            rules += f"final: {self._literal(channels.final)} answer\nanswer: {self.answer}\n"
        for index, (name, schema) in enumerate(self.tools.items()):
            lasts.append(f"call_{index}")
            openings = (self._literal(text.replace("{name}", name)) for text in channels.calls)
            rules += f"call_{index}: ({' | '.join(openings)}) arguments_{index}\n"
            where = f"the schema of tool {name!r}"
            rules += f"arguments_{index}: {json_rule(checked_schema(schema, where))}\n"
        return f"start: {' '.join(heads)} ({' | '.join(lasts)})\n" + rules

    def _literal(self, text: str) -> str:
        return literal(self.tokenizer, text)
