"""What is needed to give an answer again, and the proof that it comes out the same, to the last bit.

An answer is a function of weights, prompt, params, seed and form. A receipt holds them, the weights by the
hash of their content, beside the tokens and logprobs that came out. Whoever has the same weights can replay
it.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from mohist.chat.guides.grammar import compiler
from mohist.chat.guides.guides import Form
from mohist.errors import RequestError
from mohist.llm import LLM
from mohist.types import Completion, Request, SamplingParams

__all__ = ["Difference", "Receipt", "ReceiptAnswer", "compare"]

VERSION = 1
"""Of the format."""


@dataclass(frozen=True, kw_only=True)
class ReceiptAnswer:
    """What one sample was."""

    sample: int
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Raw, one a token."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Everything that decided some answers to one prompt, and what they were."""

    model: str
    """Where the weights came from; may lie elsewhere on another machine."""
    fingerprint: str
    """Of weights, their format and the definitions of the kernels (`LLM.fingerprint`)."""
    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None
    """Name of the LoRA adapter; the fingerprint tells its content."""
    raw: bool = False
    """Whether the prompt was a text to continue, without chat format."""
    form: Form | None = None
    compiler: str | None = None
    """What compiled the grammar of the form, with its version; None without a grammar, or of old receipts."""
    answers: tuple[ReceiptAnswer, ...]

    @classmethod
    def of(
        cls,
        llm: LLM,
        request: Request,
        completions: Sequence[Completion],
        *,
        raw: bool = False,
        form: Form | None = None,
    ) -> Self:
        """The receipt of samples to `request`, the first of which has the request's number."""
        return cls(
            model=llm.source,
            fingerprint=llm.fingerprint_with(request.adapter),
            prompt=request.prompt,
            params=request.params,
            adapter=request.adapter,
            raw=raw,
            form=None if form is None or form.is_free else form,
            compiler=compiler() if form is not None and form.has_grammar else None,
            answers=tuple(
                ReceiptAnswer(sample=request.sample + i, tokens=one.tokens, logprobs=one.logprobs)
                for i, one in enumerate(completions)
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON data, which hold every number exactly."""
        return json.loads(json.dumps({"receipt": VERSION, **dataclasses.asdict(self)}))

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The receipt in `data`, or in the answer of a server that has one. Raises RequestError."""
        if isinstance(data, dict) and isinstance(data.get("receipt"), dict):
            data = data["receipt"]
        if not isinstance(data, dict) or data.get("receipt") != VERSION:
            raise RequestError(f"not a receipt of version {VERSION}: it has no field receipt = {VERSION}")
        receipt = _read(cls, {name: value for name, value in data.items() if name != "receipt"}, "receipt")
        for answer in receipt.answers:
            if not answer.tokens or len(answer.logprobs) != len(answer.tokens) or answer.sample < 0:
                raise RequestError(
                    "answers: each has a number from 0 on, at least one token, and one logprob a token"
                )
        if not receipt.answers or not receipt.prompt:
            raise RequestError("a receipt has a prompt and at least one answer")
        return receipt

    def fits(self, llm: LLM) -> bool:
        """Whether `llm` has the weights, the format and the adapter that the receipt is for."""
        if self.adapter is not None and self.adapter not in llm.engine.adapter_keys:
            return False
        return llm.fingerprint_with(self.adapter) == self.fingerprint

    def requests(self, llm: LLM) -> list[Request]:
        """What to ask the engine, an answer each. Raises RequestError where `llm` is another model."""
        if not self.fits(llm):
            adapter = "" if self.adapter is None else f" and adapter {self.adapter!r}"
            raise RequestError(
                f"the receipt is for {self.fingerprint} ({self.model}), and this model is {llm.fingerprint} "
                f"({llm.source}): replay it with the same weights{adapter} in the same format"
            )
        return [
            dataclasses.replace(
                # Later tokens do not change earlier ones, so it may end where the answer did.
                llm.request(
                    self.prompt,
                    self.params.replace(max_tokens=len(answer.tokens)),
                    raw=self.raw,
                    form=self.form,
                    adapter=self.adapter,
                ),
                sample=answer.sample,
            )
            for answer in self.answers
        ]

    @property
    def doubt(self) -> str | None:
        """What a difference may come from besides the answers themselves: another compiler of grammars."""
        here = compiler()
        if self.form is None or not self.form.has_grammar or self.compiler == here:
            return None
        then = self.compiler or "a version that the receipt does not name"
        return f"the form was compiled by {then} and here by {here}: another version may allow other tokens"

    def replay(self, llm: LLM) -> Difference | None:
        """Give the answers again; the first difference, or None if there is none. Raises RequestError."""
        return compare(self, llm.engine.generate(self.requests(llm)))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a replay first came out otherwise. None: nothing was there."""

    answer: int
    index: int
    """Among the answer's tokens."""
    expected: tuple[int, float] | None
    """Token and logprob of the receipt."""
    found: tuple[int, float] | None
    """Those of the replay."""


def compare(receipt: Receipt, completions: Sequence[Completion]) -> Difference | None:
    """The first difference between a receipt and what came out of its requests."""
    for i, (answer, completion) in enumerate(zip(receipt.answers, completions, strict=True)):
        expected = list(zip(answer.tokens, answer.logprobs, strict=True))
        found = list(zip(completion.tokens, completion.logprobs, strict=True))
        for index in range(max(len(expected), len(found))):
            pair = [one[index] if index < len(one) else None for one in (expected, found)]
            if pair[0] != pair[1]:
                return Difference(answer=i, index=index, expected=pair[0], found=pair[1])
    return None


def _read(kind: Any, value: Any, where: str) -> Any:
    """`value`, JSON data, as the type `kind` says. Raises RequestError."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise RequestError(f"{where} = {value!r:.80}: it must be a list")
        return tuple(_read(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if type(None) in inner:
        return None if value is None else _read(inner[0], value, where)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise RequestError(f"{where} = {value!r:.80}: it must be an object")
        return value
    if origin is typing.Literal:
        if value not in inner:
            raise RequestError(f"{where} = {value!r:.80}: it must be one of {', '.join(map(str, inner))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise RequestError(f"{where} = {value!r:.80}: it must be {kind.__name__}")
    return value


def _read_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RequestError(f"{where} = {value!r:.80}: it must be an object")
    kinds = typing.get_type_hints(kind)
    unknown = next((name for name in value if name not in kinds), None)
    if unknown is not None:
        raise RequestError(f"{where}.{unknown}: there is no such field")
    given = {name: _read(kinds[name], one, f"{where}.{name}") for name, one in value.items()}
    try:
        return kind(**given)
    except TypeError as error:
        raise RequestError(f"{where}: {error}") from error
