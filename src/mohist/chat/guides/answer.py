"""The guide of one answer: thinking first, then what must have a form.

The parser that will read the answer also runs here, so guide and reader never disagree about where thinking
ends or a call begins. Tags can lie across tokens: tokens that would end a tag and go on are not allowed
where the text after it must have a form.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from mohist.chat.guides.grammar import Grammar, Matcher
from mohist.chat.guides.tags import Tag, Tail
from mohist.chat.guides.vocabulary import Vocabulary, as_bits
from mohist.errors import RequestError

__all__ = ["AnswerGuide", "Budget", "Plan", "Reader"]


class Reader(Protocol):
    """What a guide needs of the parser of answers."""

    @property
    def thinking(self) -> bool:
        """Whether text that came now would be thinking."""
        ...

    @property
    def undecided(self) -> bool:
        """Whether the answer may still turn out to be nothing but calls, without any mark before them."""
        ...

    @property
    def calling(self) -> bool:
        """Whether text that came now would be part of calls."""
        ...

    @property
    def inside_character(self) -> bool:
        """Whether the tokens so far end within a character."""
        ...

    def push(self, token: int) -> object:
        """The answer goes on with `token`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much an answer may think."""

    tokens: int
    closing: tuple[int, ...]
    """Tokens that close thinking which has used it up."""
    closing_at_once: tuple[int, ...]
    """Those that close thinking which has not begun."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one request's answers must be like. All its guides share it."""

    vocabulary: Vocabulary
    reader: Callable[[], Reader]
    stop_tokens: tuple[int, ...]
    """Tokens that end the answer: allowed only where it is complete."""
    budget: Budget | None = None
    think_opening: tuple[int, ...] = ()
    """Begins thinking, where the model may still do so itself: it chooses the first, the others follow."""
    think_end: bytes
    grammar: Grammar | None = None
    """Of an answer without thinking, ..."""
    grammar_after: Grammar | None = None
    """... and of one after thinking. None: the answer is free, calls aside."""
    thinks_in_grammar: bool = False
    """Whether `grammar` is of the whole answer, thinking included."""
    trigger: bytes = b""
    """Begins a call in a free answer."""
    section: Grammar | None = None
    """Of what follows the trigger, to the end of the calls. None: calls are free."""
    parallel: bool = True
    """Whether more calls may follow."""
    bare_call: bytes = b""
    """How a free answer begins that is nothing but calls, without any mark, ..."""
    bare: Grammar | None = None
    """... and the grammar of such an answer."""
    no_trigger: bytes = b""
    """Would begin a call where there must be none: in thinking before a grammar."""
    section_ends: bool = False
    """Whether the answer is free again after a section."""
    closer: bytes = b""
    """Ends a section of calls for the reader, wherever it stands: in the middle of a call it must not."""
    spelled: tuple[bytes, ...] = ()
    """Markup of calls, which ordinary tokens must not spell inside one."""
    hidden: frozenset[int] = frozenset()
    """Tokens that the reader passes over."""

    @cached_property
    def stops(self) -> int:
        """`stop_tokens` as bits."""
        return as_bits(list(self.stop_tokens))

    @cached_property
    def num_bytes(self) -> int:
        """Of a mask."""
        return (self.vocabulary.size + 7) // 8

    @cached_property
    def longest_tag(self) -> int:
        """In bytes."""
        marks = (self.think_end, self.trigger, self.bare_call, self.no_trigger, self.closer)
        return max(map(len, (*marks, *self.spelled)))


@dataclass(slots=True)
class AnswerGuide:
    """See `mohist.types.Guide`. Raises RequestError where an answer cannot have its form."""

    plan: Plan
    _reader: Reader = field(init=False)
    _tail: Tail = field(init=False)
    _matcher: Matcher | None = None
    """Follows what has a form; None in thinking and in free text."""
    _bare: Matcher | None = None
    """Follows an answer that may turn out to be nothing but calls; None also if it has not begun like one."""
    _forced: deque[int] = field(default_factory=deque)
    _closes: bool = False
    """Whether what is forced closes thinking."""
    _thought: int = 0
    """Tokens of thinking so far."""
    _begun: bool = False
    _called: bool = False

    def __post_init__(self) -> None:
        self._reader = self.plan.reader()
        self._tail = Tail(self.plan.vocabulary, self.plan.longest_tag)
        if self.plan.bare is not None and self._reader.undecided:
            self._bare = self.plan.bare.matcher()
        self._settle()

    def allowed(self) -> bytes | int | None:
        """See `Guide`."""
        if self._forced:
            return self._forced[0]
        if self._matcher is not None:
            return self._in_form(self._matcher)
        return self._in_free_text()

    def push(self, token: int, /) -> None:
        """See `Guide`."""
        was_thinking = self._reader.thinking
        first, self._begun = not self._begun, True
        self._reader.push(token)
        if token not in self.plan.hidden:
            self._tail.push(token)
        if self._forced:
            self._forced.popleft()
            if self._matcher is not None:
                self._follow(self._matcher, token)
            if not self._forced and self._closes and self._reader.thinking:
                raise RequestError("thinking used up its budget and could not be closed")
        elif self._matcher is not None and not (first and token in self.plan.think_opening[:1]):
            self._follow(self._matcher, token)
        elif self._matcher is not None:
            self._matcher = None  # the model chose to think first
            self._forced.extend(self.plan.think_opening[1:])
        elif self._bare is not None:
            self._follow_bare(self._bare, token)
        if self._reader.thinking:
            self._thought += was_thinking
            if self._matcher is not None and not (self.plan.section or self.plan.thinks_in_grammar):
                raise RequestError("the answer cannot be told from thinking")
        self._settle()

    def _settle(self) -> None:
        """Find what the next token has to fit, after the last one."""
        plan, thinking = self.plan, self._reader.thinking
        if self._forced or (self._matcher is not None and not plan.thinks_in_grammar):
            return
        if thinking and plan.budget is not None and self._thought >= plan.budget.tokens:
            if not self._reader.inside_character:
                self._forced.extend(plan.budget.closing if self._thought else plan.budget.closing_at_once)
                self._closes = True
        elif self._matcher is not None:
            return
        elif not thinking and plan.grammar_after is not None and self._begun:
            self._matcher = plan.grammar_after.matcher()
        elif not thinking and plan.grammar is not None:
            self._matcher = plan.grammar.matcher()
        if plan.section is not None and not self._forced and self._tail.ends_with(plan.trigger):
            self._matcher = plan.section.matcher()

    def _follow(self, matcher: Matcher, token: int) -> None:
        if token in self.plan.stop_tokens:
            return
        matcher.push(token)
        if self.plan.section_ends and matcher.ended:
            self._matcher, self._called = None, True

    def _follow_bare(self, matcher: Matcher, token: int) -> None:
        """Go on with an answer that could be nothing but calls, or find out that it is or is not."""
        fits = token not in self.plan.stop_tokens and matcher.tries(token)
        if (
            not self._reader.undecided
            and self._reader.calling
            and not self._tail.ends_with(self.plan.trigger)
        ):
            if not fits:
                raise RequestError("a call began that is none of the tools'")
            self._matcher = matcher
        if not (fits and self._reader.undecided):
            self._bare = None

    def _in_form(self, matcher: Matcher) -> bytes:
        plan = self.plan
        bits = int.from_bytes(matcher.allowed(), "little") & ~plan.stops
        if plan.spelled or plan.closer:
            spelled = self._tail.forbidden(tuple(Tag(text, "in it") for text in plan.spelled))
            bits &= ~spelled | plan.vocabulary.markup
            for token in self._closing(bits):
                if not matcher.completes_with(token):
                    bits &= ~(1 << token)
        if matcher.complete:
            bits |= plan.stops
        if not self._begun and plan.think_opening:
            bits |= 1 << plan.think_opening[0]
        return bits.to_bytes(plan.num_bytes, "little")

    def _in_free_text(self) -> bytes | None:
        plan = self.plan
        thinking = self._reader.thinking
        if self._called and not plan.parallel and not thinking:
            return plan.stops.to_bytes(plan.num_bytes, "little")
        tags: list[Tag] = []
        forbidden = 0
        if plan.grammar_after is not None:
            forbidden |= plan.stops
            tags.append(Tag(plan.think_end, "after it"))
            if plan.no_trigger:
                tags.append(Tag(plan.no_trigger, "in it"))
        if plan.section is not None:
            tags.append(Tag(plan.trigger, "after it"))
        forbidden |= self._tail.forbidden(tuple(tags))
        if plan.bare is not None and self._reader.undecided:
            fitting = 0 if self._bare is None else int.from_bytes(self._bare.allowed(), "little")
            forbidden |= self._tail.forbidden((Tag(plan.bare_call, "in it"),)) & ~fitting
        return (plan.vocabulary.every & ~forbidden).to_bytes(plan.num_bytes, "little") if forbidden else None

    def _closing(self, bits: int) -> Iterable[int]:
        """Allowed tokens that would complete the closer."""
        if not self.plan.closer:
            return
        few = bits & self._tail.forbidden((Tag(self.plan.closer, "in it"),))
        while few:
            token = few.bit_length() - 1
            yield token
            few &= ~(1 << token)
