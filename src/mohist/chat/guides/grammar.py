"""Grammars over tokens, by llguidance: what may come next is what some answer could go on with."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from mohist.chat.guides.vocabulary import Vocabulary
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import RequestError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

__all__ = ["Grammar", "Matcher", "compiler", "json_rule", "literal", "regex_rule"]

# no_forcing: every way to spell a text counts, and nothing depends on how its tokenizer would.
_HEADER = '%llguidance {"no_forcing": true}\n'
_WHITESPACE = r" |\n[ \t]{0,32}"
"""Between the parts of JSON: as compact or indented writers put it, and never without end."""
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


def _limits() -> LLParserLimits:
    """What a grammar may cost: a fraction of a second and some megabytes (measured in docs/log.md)."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_items_in_row=2_000,
        max_lexer_states=10_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


def compiler() -> str | None:
    """What compiles grammars here, with its version: another may allow other tokens. None: nothing does."""
    try:
        return f"llguidance {version('llguidance')}"
    except PackageNotFoundError:
        return None


class Grammar:
    """A compiled grammar. Threads may share it."""

    def __init__(self, vocabulary: Vocabulary, rules: str, what: str) -> None:
        """`rules` is Lark as llguidance reads it. Raises RequestError saying that `what` cannot be used."""
        tokenizer = vocabulary.grammars
        from llguidance import LLMatcher

        self._what, self._end = what, vocabulary.end
        self._fresh = LLMatcher(tokenizer, _HEADER + rules, log_level=0, limits=_limits())
        if self._fresh.is_error():
            raise RequestError(f"{what}: {_reason(self._fresh)}")

    def matcher(self) -> Matcher:
        """One at the beginning of an answer."""
        return Matcher(self._fresh.deep_copy(), self._what, self._end)


class Matcher:
    """How far an answer has come in a grammar. Raises RequestError where it cannot be followed further."""

    def __init__(self, matcher: LLMatcher, what: str, end: int) -> None:
        """`end` is the token that llguidance allows where the answer may end."""
        self._matcher = matcher
        self._what, self._end = what, end

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._matcher.is_accepting()

    @property
    def ended(self) -> bool:
        """Whether it must."""
        return self._matcher.is_stopped()

    def allowed(self) -> bytearray:
        """A bit for each token that the answer may go on with; whether it may end is another question."""
        bits = bytearray(self._matcher.compute_bitmask())
        self._check()
        bits[self._end // 8] &= ~(1 << self._end % 8)
        return bits

    def push(self, token: int) -> None:
        """Go on with `token`."""
        self._matcher.consume_token(token)
        self._check()

    def tries(self, token: int) -> bool:
        """Go on with `token` if it fits; if not, this is of no further use."""
        return self._matcher.consume_token(token) and not self._matcher.is_error()

    def completes_with(self, token: int) -> bool:
        """Whether the answer would be complete after `token`."""
        ahead = self._matcher.deep_copy()
        return ahead.consume_token(token) and ahead.is_accepting()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RequestError(f"{self._what}: {_reason(self._matcher)}")


def _reason(matcher: LLMatcher) -> str:
    """What an error says, without the grammar that it repeats."""
    first, _, rest = _PLACE.sub("", matcher.get_error()).partition("\n")
    if first.startswith("NoExtension"):
        return "no text fits it"
    found = re.search(r"^error: (.*)", rest, re.MULTILINE)  # of the regex parser, below a drawing
    return f"{first.removesuffix(' regex parse error:')} {found[1]}" if found else first


def json_rule(schema_text: str, *, spaced: bool = True) -> str:
    """The right side of a rule for JSON that fits a schema, which `checked_schema` has passed.

    `spaced`: white space may come before it and between its parts.
    """
    if not schema_text.startswith("{"):
        return f"%json {schema_text}"
    space = f'"whitespace_pattern": {_quoted(_WHITESPACE)}' if spaced else '"whitespace_flexible": false'
    rest = schema_text[1:].lstrip()
    return f'%json {{"x-guidance": {{{space}}}{"" if rest == "}" else ", "}{rest}'


def regex_rule(pattern: str) -> str:
    """The right side of a rule for text that matches `pattern` as a whole; \\d and \\w are ASCII."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, 'dw')}/"


def literal(tokenizer: Tokenizer, text: str) -> str:
    """The right side of a rule for `text`: markup by its tokens, the rest in any spelling."""
    return " ".join(
        f"<[{piece}]>" if isinstance(piece, int) else _quoted(piece) for piece in tokenizer.split(text)
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
