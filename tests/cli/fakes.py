"""A model that answers from a script, for the parts of the command line that need no real one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mohist.chat.guides.guides import Form
from mohist.cost import Cost
from mohist.errors import RequestError
from mohist.types import Completion, FinishReason, Message, SamplingParams, Usage


@dataclass(frozen=True)
class Piece:
    kind: str
    text: str


@dataclass(frozen=True)
class FakeAnswer:
    message: Message
    completion: Completion


class FakeReply:
    """Yields the scripted pieces; `stop` ends it after the piece at hand."""

    tokens_per_second = 50.0
    cost = Cost(prompt_tokens=3, completion_tokens=2, seconds=1.0)

    def __init__(self, pieces: Sequence[Piece], reason: FinishReason) -> None:
        self._pieces = pieces
        self._reason: FinishReason = reason
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def __iter__(self) -> Iterator[Piece]:
        shown: list[Piece] = []
        for piece in self._pieces:
            shown.append(piece)
            yield piece
            if self._stopped:
                self._reason = "abort"
                break
        text = {kind: "".join(p.text for p in shown if p.kind == kind) for kind in ("content", "reasoning")}
        self.answer = FakeAnswer(
            message=Message(role="assistant", content=text["content"], reasoning=text["reasoning"] or None),
            completion=Completion(
                tokens=(1, 2),
                logprobs=(-0.5, -0.25),
                sampled_logprobs=(-0.5, -0.25),
                top_logprobs=((), ()),
                finish_reason=self._reason,
                usage=Usage(prompt_tokens=3, cached_tokens=0, completion_tokens=2),
            ),
        )


@dataclass
class FakeLLM:
    script: list[list[Piece]]
    reason: FinishReason = "stop"
    source: str = "fake"
    summary: str = "a scripted model"
    defaults: SamplingParams = field(default_factory=SamplingParams)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def render(self, messages: Sequence[Message], thinking: bool | None = None) -> list[int]:
        if any("\0" in message.content for message in messages):
            raise RequestError("a prompt must not hold NUL: remove it")
        self.asked.append({"messages": list(messages), "thinking": thinking})
        return [1, 2, 3]

    def encode(self, text: str) -> list[int]:
        self.asked.append({"raw": text})
        return [1, 2, 3]

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        sample: int = 0,
        raw: bool = False,
        form: Form | None = None,
    ) -> FakeReply:
        self.asked[-1] |= {"params": params, "sample": sample, "form": form}
        return FakeReply(self.script.pop(0), self.reason)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        num_samples: int,
        raw: bool,
        form: Form | None,
    ) -> tuple[list[FakeAnswer], Cost]:
        answers = []
        for sample in range(num_samples):
            reply = self.stream(prompts[0], params, sample=sample, form=form)
            list(reply)
            answers.append(reply.answer)
        return answers, FakeReply.cost
