"""Text to tokens and back, over the `tokenizers` library.

Some tokens are *markup*: they structure a conversation (`<|im_start|>`, `<think>`) and must come from the
chat template alone, never from what a person typed. `encode(text, special=False)` reads markup in the text
as the plain characters that it is made of.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers

from mohist.errors import ChatError

__all__ = ["Tokenizer"]

_PIPED = re.compile(r"<[|\uff5c].*[|\uff5c]>", re.DOTALL)
"""`<|...|>` and `<｜...｜>` are markup even where a tokenizer does not call the token special."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Tokenizer:
    """A model's vocabulary and how text is cut into it.

    Added tokens are the ones that are found in text before it is cut into words. Those that the tokenizer's
    files call special, those that look like `<|...|>`, and those that `reserve` names are markup; the others
    (runs of spaces, HTML tags, umlauts) are just vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        names: Mapping[str, str] | None = None,
        stop_tokens: Iterable[int] = (),
        adds_bos: bool = False,
        templates: Mapping[str, str] | None = None,
        reserve: Iterable[str] = (),
    ) -> None:
        self.backend = backend
        self.names: dict[str, str] = dict(names or {})
        """Texts of named tokens, as templates know them: bos_token, eos_token, pad_token, ..."""
        self.adds_bos = adds_bos
        """Whether a raw text begins with the bos token. Chat templates write their own."""
        self.templates: dict[str, str] = dict(templates or {})
        """Jinja sources by name; most models have one, called "default"."""
        self.bos_token = self._named("bos_token")
        self.eos_token = self._named("eos_token")
        eos = () if self.eos_token is None else (self.eos_token,)
        self.stop_tokens: tuple[int, ...] = tuple(dict.fromkeys((*eos, *stop_tokens)))
        """Tokens that end a turn according to the tokenizer's and generation's settings; eos first."""
        self._added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
        self._reserve = frozenset(reserve)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read a Hugging Face folder: tokenizer.json and what tells about it. Raises ChatError."""
        from mohist.chat.folder import read_folder

        return read_folder(Path(folder))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Tokenizer:
        """Build from a GGUF file's metadata (`tokenizer.ggml.*`). Raises ChatError."""
        from mohist.chat.gguf import read_gguf

        return read_gguf(metadata)

    def reserving(self, texts: Iterable[str]) -> Tokenizer:
        """The same tokenizer, for which added tokens with these texts are markup too."""
        return Tokenizer(
            self.backend,
            names=self.names,
            stop_tokens=self.stop_tokens,
            adds_bos=self.adds_bos,
            templates=self.templates,
            reserve=self._reserve | frozenset(texts),
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest token. A model's logits may be padded beyond it."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def added(self) -> Mapping[int, str]:
        """Added tokens and their texts."""
        return {token: entry.content for token, entry in self._added.items()}

    @cached_property
    def markup(self) -> Mapping[int, str]:
        """Markup tokens and their texts."""
        return {
            token: entry.content
            for token, entry in self._added.items()
            if entry.special or entry.content in self._reserve or _PIPED.fullmatch(entry.content)
        }

    @cached_property
    def markup_ends(self) -> frozenset[str]:
        """Characters that markup begins or ends with, and whatever the normalizer turns into one of them."""
        ends = frozenset(end for text in self.markup.values() for end in text.strip()[:1] + text.strip()[-1:])
        normalizer = self.backend.normalizer
        if normalizer is None or not any(self._added[token].normalized for token in self.markup):
            return ends
        every = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x10000))))
        if normalizer.normalize_str(every) == every:
            return ends
        return ends.union(one for one in every if not ends.isdisjoint(normalizer.normalize_str(one)))

    def token(self, text: str) -> int | None:
        """The token whose whole text is `text`, if there is one."""
        return self.backend.token_to_id(text)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Tokens of `text`, with nothing added before or after.

        With `special`, markup in the text becomes markup tokens, as in Hugging Face's tokenizers. Without, it
        is plain text: the result holds no markup token whatever the text says.
        """
        return _encoding(self.backend, text).ids if special else self.encode_pieces([text])

    def split(self, text: str) -> list[str | int]:
        """`text` cut at its markup: strings, and the tokens between them."""
        encoding = _encoding(self.backend, text)
        pieces: list[str | int] = []
        place = 0
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.markup:
                pieces += [text[place:start], token]
                place = end
        return [piece for piece in (*pieces, text[place:]) if piece != ""]

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """Tokens of `pieces`, a text cut by `split`: strings are plain text, whatever markup they hold."""
        tokens: list[int] = []
        for piece in pieces:
            tokens += [piece] if isinstance(piece, int) else self._encode_plain(piece, first=not tokens)
        return tokens

    def _encode_plain(self, text: str, *, first: bool) -> list[int]:
        backend = self._plain if first else self._plain_inside
        tokens = [self._renumbered.get(token, token) for token in _encoding(backend, text).ids]
        forged = next((self.markup[token] for token in tokens if token in self.markup), None)
        if forged is not None:
            raise ChatError(
                f"the text holds {forged!r}, which this tokenizer cannot write as plain text; leave it out"
            )
        return tokens

    def prompt(self, text: str) -> list[int]:
        """Tokens of a raw text to be continued: plain text, after bos where the model expects one."""
        start = [self.bos_token] if self.adds_bos and self.bos_token is not None else []
        return start + self.encode(text, special=False)

    def decode(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of `tokens`; bytes that are not UTF-8 become U+FFFD. `special=False` leaves markup out."""
        kept = tokens if special else [token for token in tokens if token not in self.markup]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for, maybe part of a character; none for padding of the logits."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._find_bytes(token)
        return known

    def _find_bytes(self, token: int) -> bytes:
        text = self.backend.id_to_token(token) if token >= 0 else None
        if text is None:
            return b""
        if token in self._added:
            return text.encode()
        if isinstance(self.backend.decoder, decoders.ByteLevel):
            return b"".join(map(_byte_of, text))
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes.fromhex(byte[1]) if byte else text.replace("\u2581", " ").encode()

    def _named(self, name: str) -> int | None:
        text = self.names.get(name)
        if text is None:
            return None
        token = self.backend.token_to_id(text)
        if token is None:
            raise ChatError(f"{name} = {text!r} is not in the tokenizer's vocabulary")
        return token

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The backend without its markup tokens. It shares the vocabulary, so it costs next to nothing."""
        return self._without_markup(self.backend.pre_tokenizer)

    @cached_property
    def _plain_inside(self) -> tokenizers.Tokenizer:
        """The same for text that is not the beginning, before which some SentencePiece models put a space."""
        rules = self.backend.pre_tokenizer
        if not isinstance(rules, pre_tokenizers.Metaspace) or rules.prepend_scheme != "first":
            return self._plain
        return self._without_markup(
            pre_tokenizers.Metaspace(replacement=rules.replacement, prepend_scheme="never", split=rules.split)
        )

    def _without_markup(self, rules: pre_tokenizers.PreTokenizer | None) -> tokenizers.Tokenizer:
        plain = tokenizers.Tokenizer(self.backend.model)
        if self.backend.normalizer is not None:
            plain.normalizer = self.backend.normalizer
        if rules is not None:
            plain.pre_tokenizer = rules
        plain.add_tokens(list(self._plain_added.values()))
        return plain

    @property
    def _plain_added(self) -> dict[int, AddedToken]:
        return {token: added for token, added in sorted(self._added.items()) if token not in self.markup}

    @cached_property
    def _renumbered(self) -> dict[int, int]:
        """From `_plain`'s numbers to ours: it numbers added tokens outside the model's vocabulary anew."""
        numbers = {
            token: self._plain.token_to_id(entry.content) for token, entry in self._plain_added.items()
        }
        return {new: token for token, new in numbers.items() if new is not None and new != token}


def _encoding(backend: tokenizers.Tokenizer, text: str) -> tokenizers.Encoding:
    # The library's threads are for batches of texts, which we never encode, and do not mix with fork(); it
    # warns at the first fork unless it was told.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ChatError(
            f"the text has half a surrogate pair, {text[error.start]!r}, at character {error.start}; "
            "it is not valid Unicode and has no tokens"
        ) from None
    # Unlike `encode`, this lets other threads run meanwhile: a long text takes seconds.
    (encoding,) = backend.encode_batch([text], add_special_tokens=False)
    return encoding


def _byte_of(character: str) -> bytes:
    value = _BYTE_OF_CHARACTER.get(character)
    return character.encode() if value is None else bytes((value,))


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on, in order."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER: Mapping[str, int] = _byte_alphabet()
