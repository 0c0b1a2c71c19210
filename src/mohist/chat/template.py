"""A model's chat template: messages in, text out, with what the messages said kept apart from markup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import SecurityError

from mohist.chat.limits import MAX_TEXT, Budget
from mohist.chat.mask import Mask, texts_in
from mohist.chat.sandbox import BUDGET, environment
from mohist.errors import ChatError

__all__ = ["Rendered", "Template"]

_MAX_SOURCE = 256 * 1024

_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What somebody else's template may end in."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation."""

    text: str
    masked: str
    """`text`, character by character, with a stand-in wherever message text has a markup character."""
    mask: Mask | None
    """Turns stand-ins back; None where the messages hold no markup character at all."""
    exact: bool = True
    """Whether `text` is just what Hugging Face's `apply_chat_template` gives. False where the template looks
    into message text in a way that masking cannot follow: `text` is then the masked rendering turned back."""


class Template:
    """A compiled chat template, which runs within limits (see `sandbox`)."""

    def __init__(self, source: str) -> None:
        """Compile `source`; ChatError if it is no Jinja template."""
        if len(source) > _MAX_SOURCE:
            raise ChatError(f"the chat template has {len(source):,} characters; {_MAX_SOURCE:,} is the most")
        self.source = source
        made = environment()
        try:
            self.variables: frozenset[str] = frozenset(meta.find_undeclared_variables(made.parse(source)))
            self._compiled = made.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatError(f"the chat template, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError) as error:
            raise ChatError("the chat template is nested too deeply") from error

    def render(
        self,
        messages: list[dict[str, Any]],
        variables: Mapping[str, Any],
        *,
        names: Mapping[str, str] | None = None,
        hidden: Iterable[str] = (),
        now: datetime | None = None,
    ) -> Rendered:
        """Run the template on `messages` and `variables` (tools, add_generation_prompt, ...).

        `names` are the texts of named tokens (bos_token, ...), `hidden` the characters of messages and
        variables that get stand-ins. `now` is what `strftime_now` tells (default: the local time).

        The template runs twice when there are such characters: on messages as they are, for the text that
        `apply_chat_template` gives, and on masked ones, which tells which characters the template wrote.
        Raises ChatError, naming the first message that makes the template fail.
        """
        clock = {"strftime_now": (now or datetime.now().astimezone()).strftime, **(names or {})}
        given = {**variables, "messages": messages}
        text = self._run(given, clock)
        hidden = frozenset(hidden)
        if all(hidden.isdisjoint(part) for part in texts_in(given)):
            return Rendered(text, text, None)
        mask = Mask(hidden, [self.source, *texts_in(given)])
        masked = self._run(mask.hide(given), clock)
        shown = mask.show(masked)
        return Rendered(shown, masked, mask, exact=shown == text)

    def _run(self, given: dict[str, Any], clock: Mapping[str, Any]) -> str:
        """One rendering. If it fails, shorter conversations show which message is to blame."""
        try:
            return self._generate(given, clock)
        except ChatError as error:
            if isinstance(error.__cause__, SecurityError):
                raise  # the template's own fault, and maybe slow
            blamed = self._blame(given, clock, str(error))
            if blamed is None:
                raise
            raise ChatError(f"messages[{blamed}] ({given['messages'][blamed]['role']}): {error}") from error

    def _blame(self, given: dict[str, Any], clock: Mapping[str, Any], failure: str) -> int | None:
        """The index of the first message with which the template ends in `failure`, and not without."""
        messages = given["messages"]
        for count in range(len(messages) + 1):
            try:
                self._generate({**given, "messages": messages[:count]}, clock)
            except ChatError as error:
                if str(error) == failure:
                    return count - 1 if count else None
        return None

    def _generate(self, given: Mapping[str, Any], clock: Mapping[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate({**clock, **given, BUDGET: Budget()}):
                size += len(part)
                if size > MAX_TEXT:
                    raise ChatError(f"the chat template writes more than {MAX_TEXT:,} characters")
                parts.append(part)
        except _FAILURES as error:
            raise ChatError(f"the chat template fails: {error or type(error).__name__}") from error
        return "".join(parts)
