"""Gemma 4: `<|turn>ROLE` begins a turn, `<turn|>` ends it; thoughts and calls have marks of their own.

Arguments are written in a notation close to JSON, with bare keys and strings between `<|"|>`. With thinking
off, the prompt writes an empty thought. Thoughts of the past are dropped, but for those before calls of tools
since the user's last message.
"""

from __future__ import annotations

import json
import re

from mohist.chat.call_reader import CallMarkup
from mohist.chat.calls import CallSyntax, Schemas, tool_call_from_json
from mohist.chat.format import ChatFormat
from mohist.chat.gemma_arguments import ATOM, KEY, MAX_KEY_CHARS, QUOTE, GemmaArguments
from mohist.chat.json_scanner import is_atom
from mohist.chat.notation import Notation
from mohist.chat.template import Template
from mohist.types import ToolCall

__all__ = ["FORMAT"]

_TEMPLATE = """\
{{- bos_token }}
{%- set thinks = enable_thinking is defined and enable_thinking %}
{%- if thinks or messages[0]['role'] == 'system' %}
{{- '<|turn>system\\n' + ('<|think|>\\n' if thinks else '') }}
{{- messages[0]['content'] | trim if messages[0]['role'] == 'system' }}
{{- '<turn|>\\n' }}
{%- endif %}
{%- for message in messages if message['role'] != 'system' %}
{{- '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- (message['content'] or '') | trim + '<turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|turn>model\\n' + ('<|channel>thought\\n<channel|>' if not thinks else '') }}
{%- endif %}"""

_CALL = re.compile(r"\s*call:([^\s{]+)(\{.*\})\s*", re.DOTALL)


class Gemma4(ChatFormat):
    def arguments_as_text(self, template: Template) -> bool:
        """The template writes objects in the model's own notation."""
        return False

    def parse_tools(self, section: str, schemas: Schemas) -> tuple[ToolCall, ...]:
        """One call: `call:NAME{key:value,...}`."""
        call = _CALL.fullmatch(section)
        if call is None:
            raise ValueError("a tool call must read call:NAME{...}")
        value, end = _Reader(call[2]).value(0)
        if end != len(call[2]):
            raise ValueError("the arguments go on after their end")
        return (tool_call_from_json(call[1], value),)


class _Reader:
    """Reads values in Gemma's notation: a place in, a value as JSON and the place after it out."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, place: int) -> tuple[str, int]:
        text = self._text
        if text.startswith(QUOTE, place):
            string, place = self._string(place)
            return json.dumps(string, ensure_ascii=False), place
        if text.startswith("{", place):
            return self._object(place + 1)
        if text.startswith("[", place):
            return self._array(place + 1)
        atom = ATOM.match(text, place)
        if atom is None or not is_atom(atom[0]):
            raise ValueError(f"a value is missing at character {place}")
        return atom[0], atom.end()

    def _string(self, place: int) -> tuple[str, int]:
        start = place + len(QUOTE)
        end = self._text.index(QUOTE, start)
        return self._text[start:end], end + len(QUOTE)

    def _object(self, place: int) -> tuple[str, int]:
        pairs: list[str] = []
        while not self._text.startswith("}", place):
            key, place = self._key(place)
            if not self._text.startswith(":", place) or len(key) > MAX_KEY_CHARS:
                raise ValueError(f"a key or its colon is wrong at character {place}")
            value, place = self.value(place + 1)
            pairs.append(f"{json.dumps(key, ensure_ascii=False)}: {value}")
            place = self._comma(place, "}")
        return "{" + ", ".join(pairs) + "}", place + 1

    def _array(self, place: int) -> tuple[str, int]:
        values: list[str] = []
        while not self._text.startswith("]", place):
            value, place = self.value(place)
            values.append(value)
            place = self._comma(place, "]")
        return "[" + ", ".join(values) + "]", place + 1

    def _key(self, place: int) -> tuple[str, int]:
        if self._text.startswith(QUOTE, place):
            return self._string(place)
        key = KEY.match(self._text, place)
        if key is None:
            raise ValueError(f"a key is missing at character {place}")
        return key[0], key.end()

    def _comma(self, place: int, close: str) -> int:
        if self._text.startswith(",", place):
            return place + 1
        if not self._text.startswith(close, place):
            raise ValueError(f"a comma or {close!r} is missing at character {place}")
        return place


_MARKUP = CallMarkup(before=re.compile(r"\s*call:(?P<name>[^\s{]+)(?=\{)"), arguments=GemmaArguments)

FORMAT = Gemma4(
    name="gemma_4",
    signs=("<|turn>", "<turn|>"),
    vocabulary=("<|turn>", "<turn|>"),
    think=("<|channel>thought", "<channel|>"),
    thought=("<|channel>thought\n", "\n<channel|>"),
    tool_sections=(("<|tool_call>", "<tool_call|>"),),
    call_markup=_MARKUP,
    calls=CallSyntax(
        call=("<|tool_call>call:{name}", "<tool_call|>"),
        notation=Notation(quote=QUOTE, bare_key=KEY, max_key_chars=MAX_KEY_CHARS),
    ),
    inner_markup=("<|channel>", QUOTE),
    turn_markup=(
        "<bos>",
        "<|turn>",
        "<|think|>",
        "<|tool>",
        "<tool|>",
        "<|tool_response>",
        "<tool_response|>",
    ),
    stop_texts=("<turn|>", "<eos>", "<|tool_response>"),
    early_stop="\n<channel|>",
    default_template=_TEMPLATE,
)
