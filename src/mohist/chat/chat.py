"""Conversations with one model: messages to the tokens of a prompt, tokens of an answer to a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from mohist.chat.format import ChatFormat, find_format
from mohist.chat.messages import Messages, for_template, plain_data
from mohist.chat.stream import StreamParser
from mohist.chat.template import Rendered, Template
from mohist.chat.tokenizer import Tokenizer
from mohist.errors import ChatError
from mohist.types import Message

__all__ = ["Chat", "ThinkingMode", "load_chat"]

ThinkingMode = Literal["switch", "always", "unclear", "never"]
"""What a prompt can do about thinking: turn it on and off ("switch"), or nothing, because every prompt opens
it ("always"), the template knows of it but leaves it to the model ("unclear"), or there is none ("never")."""

_SWITCHES: dict[str, tuple[str | bool, str | bool]] = {
    "enable_thinking": (True, False),  # Qwen3, GLM, SmolLM3
    "thinking": (True, False),  # DeepSeek from V3.1, Kimi
    "thinking_mode": ("enabled", "disabled"),  # MiniMax M3
    "reasoning": (True, False),  # GigaChat 3.5
}
"""Template variables that turn thinking on and off, and what they are set to."""

_RESERVED = frozenset(("messages", "tools", "add_generation_prompt", "strftime_now", "adds_bos", *_SWITCHES))

_TAIL_TOKENS = 32
"""Enough for a tag, even in single bytes, and the white space after it."""


class Chat:
    """How one model is talked to. It holds nothing of any conversation and may be shared by threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        template: str | None = None,
        format_name: str | None = None,
    ) -> None:
        """`template` (Jinja source) replaces the model's own; `format_name` the format found by its looks."""
        sources = dict(tokenizer.templates) if template is None else {"default": template}
        source = sources.get("default") or next(iter(sources.values()), None)
        self.format: ChatFormat = find_format(tokenizer, source, format_name)
        self._own_template = source is not None
        self.template = Template(self.format.default_template if source is None else source)
        self._tool_template = Template(sources["tool_use"]) if "tool_use" in sources else self.template
        written = "\0".join((self.template.source, self._tool_template.source))
        named = (text for text in tokenizer.added.values() if text in written)
        self.tokenizer = tokenizer.reserving(self.format.markup.union(named))

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """Tokens that end the model's turn: from its settings, and those of the format that it has."""
        ends = [self.tokenizer.token(text) for text in self.format.stop_texts]
        known = [token for token in ends if token is not None]
        return tuple(dict.fromkeys((*self.tokenizer.stop_tokens, *known)))

    @cached_property
    def thinking_mode(self) -> ThinkingMode:
        """What `thinking` can do for this model."""
        if self._switch is not None:
            return "switch"
        if self.opens_thinking(self.render([{"role": "user", "content": "?"}])):
            return "always"
        return "unclear" if self.format.think[1] in self.template.source else "never"

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> list[int]:
        """The tokens of the prompt for `messages`.

        Markup in messages, tools and `variables` is plain text: nothing that a person types can end a turn or
        open another. All other text gives the tokens that Hugging Face's `apply_chat_template` gives.

        `thinking`: None leaves it to the model's template. True and False use the model's switch; a model
        without one takes what it does anyway, and anything else is a ChatError (thinking from a model that
        knows no thinking, or none from one whose every prompt opens it).
        `tools` are JSON schemas as in OpenAI's API; `variables` further variables of the template; `now` is
        the time for templates that tell the date. Raises ChatError.
        """
        rendered = self.rendered(
            messages,
            tools=tools,
            thinking=thinking,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
            now=now,
        )
        return self.encode(rendered)

    def rendered(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> Rendered:
        """The text that `render` gives the tokens of. Raises ChatError."""
        try:
            return self._render(messages, tools, thinking, add_generation_prompt, variables or {}, now)
        except RecursionError as error:
            raise ChatError("messages, tools or variables are nested too deeply") from error

    def stream(
        self,
        prompt: Sequence[int] = (),
        *,
        stop: Iterable[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
        parallel: bool = True,
    ) -> StreamParser:
        """A parser for the answer to `prompt` (tokens from `render`); `stop` strings end the answer.

        `tools` are those that the prompt offers: some formats write arguments without their types. Where it
        offers none, `()`, what looks like a call is text. None reads calls of any tools. Where calls are not
        `parallel`, the first that is complete ends the answer.
        """
        endings = () if self._own_template else self.format.default_stop_strings
        return StreamParser(
            self.tokenizer,
            self.format,
            stop_tokens=self.stop_tokens,
            thinking=self.opens_thinking(prompt),
            stop=(*endings, *stop),
            tools=tools,
            parallel=parallel,
        )

    def parse(
        self,
        tokens: Iterable[int],
        prompt: Sequence[int] = (),
        *,
        stop: Iterable[str] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Message:
        """The message that a whole answer is: what `stream` gives, put together."""
        parser = self.stream(prompt, stop=stop, tools=tools)
        for token in tokens:
            parser.push(token)
        parser.finish()
        return parser.message()

    def opens_thinking(self, prompt: Sequence[int]) -> bool:
        """Whether the template opened thinking at the end of `prompt`."""
        return self.tokenizer.decode(prompt[-_TAIL_TOKENS:]).rstrip().endswith(self.format.think[0])

    @cached_property
    def _switch(self) -> str | None:
        return next((name for name in _SWITCHES if name in self.template.variables), None)

    def _render(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None,
        thinking: bool | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        now: datetime | None,
    ) -> Rendered:
        template = self._tool_template if tools else self.template
        if tools and "tools" not in template.variables:
            raise ChatError("this model's chat template has no place for tools; ask without them")
        taken = sorted(_RESERVED.union(self.tokenizer.names).intersection(variables))
        if taken:
            raise ChatError(f"variables: {taken[0]!r} has a meaning of its own; use the argument for it")
        given = {
            **plain_data(variables, "variables"),
            **self._thinking(thinking),
            "tools": plain_data(tools, "tools") if tools else None,
            "add_generation_prompt": add_generation_prompt,
            "adds_bos": self.tokenizer.adds_bos,
        }
        as_text = self.format.arguments_as_text(template)
        shaped = for_template(messages, arguments_as_text=as_text, no_content=self.format.no_content)
        names, hidden = self.tokenizer.names, self.tokenizer.markup_ends
        return template.render(shaped, given, names=names, hidden=hidden, now=now)

    def _thinking(self, wanted: bool | None) -> dict[str, str | bool]:
        """The template variables that ask for `wanted`."""
        if wanted is None:
            return {}
        if self._switch is not None:
            return {self._switch: _SWITCHES[self._switch][0 if wanted else 1]}
        if wanted and self.thinking_mode == "never":
            raise ChatError("thinking = True: this model knows no thinking; leave thinking unset")
        if not wanted and self.thinking_mode == "always":
            raise ChatError("thinking = False: this model always thinks; leave thinking unset")
        return {}

    def encode(self, rendered: Rendered) -> list[int]:
        """Tokens in which exactly the markup that the template wrote is markup."""
        tokens = self.tokenizer.encode(rendered.text)
        if rendered.mask is None:
            return tokens
        pieces = self.tokenizer.split(rendered.masked)
        written = [piece for piece in pieces if isinstance(piece, int)]
        if [token for token in tokens if token in self.tokenizer.markup] == written:
            return tokens
        # A message holds markup: what lies between the template's own is plain text.
        show = rendered.mask.show
        shown = (piece if isinstance(piece, int) else show(piece) for piece in pieces)
        return self.tokenizer.encode_pieces(shown)


class _Checkpoint(Protocol):
    """What this floor needs of the weights floor's `Checkpoint`."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...


def load_chat(
    source: str | Path | Mapping[str, Any] | _Checkpoint,
    *,
    template: str | None = None,
    format_name: str | None = None,
) -> Chat:
    """The chat of a model: from its Hugging Face folder, its GGUF metadata, or its opened checkpoint.

    `template` and `format_name` replace the model's template and the format that it looks like.
    Raises ChatError.
    """
    return Chat(_tokenizer(source), template=template, format_name=format_name)


def _tokenizer(source: str | Path | Mapping[str, Any] | _Checkpoint) -> Tokenizer:
    if isinstance(source, Mapping):
        return Tokenizer.from_gguf(source)
    if isinstance(source, (str, Path)):
        if Path(source).suffix == ".gguf":
            raise ChatError(f"{source}: open it with mohist.weights.checkpoint.open_checkpoint first")
        return Tokenizer.from_folder(source)
    return Tokenizer.from_gguf(source.config) if source.kind == "gguf" else Tokenizer.from_folder(source.path)
