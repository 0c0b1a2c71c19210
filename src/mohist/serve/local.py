"""A model of this machine behind the server: an `Ask` to the engine's tokens to events."""

from __future__ import annotations

import asyncio
import codecs
import dataclasses
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

from mohist.chat.guides.guides import Guides
from mohist.chat.tokenizer import Tokenizer
from mohist.engine.engine import Event as EngineEvent
from mohist.engine.engine import FinishEvent, ScoreEvent, TokenEvent
from mohist.engine.sequence import Draw
from mohist.errors import MohistError, RequestError
from mohist.llm import LLM
from mohist.receipt import Difference, Receipt, compare
from mohist.serve.answer import Event, Finished, FinishReason, Piece, Started, TokenInfo, ToolCallPiece, Usage
from mohist.serve.ask import Ask
from mohist.serve.errors import ApiError, invalid
from mohist.serve.form import form_of
from mohist.serve.prompt import Prepared, prepare
from mohist.serve.text import ChoiceText
from mohist.serve.worker import EngineError, EngineWorker, Job
from mohist.types import Completion, TopLogprobs

__all__ = ["LocalModel"]

_log = logging.getLogger(__name__)


class LocalModel:
    """One loaded model with the thread that runs it."""

    def __init__(self, name: str, llm: LLM) -> None:
        self.name = name
        self.llm = llm
        self._guides = _guides(llm)
        self.worker = EngineWorker(llm.engine, name=name)
        _ = llm.fingerprint  # reads all files, so it is computed now, on the thread that loads

    async def answer(self, ask: Ask, *, salt: bytes = b"") -> AsyncGenerator[Event]:
        """The events of an answer; closing the iterator ends the work on it. Raises ApiError."""
        prepared = await asyncio.to_thread(prepare, self.llm, self._guides, ask)
        prompt = prepared.request.prompt
        job = await self._lined_up(prepared, ask, salt) if prepared.wants_tokens else None
        with nullcontext() if job is None else closing(job):
            yield Started(
                model=self.name if ask.adapter is None else f"{self.name}:{ask.adapter}",
                fingerprint=self.llm.fingerprint_with(ask.adapter),
                thinks=prepared.thinks,
                prompt_tokens=len(prompt),
                seed=prepared.request.params.seed,
                ignored=prepared.ignored,
            )
            echo = await self._echo(ask, prompt, salt) if ask.echo else []
            for piece in echo:
                yield piece
            if job is None:
                yield Finished(choice=0, reason="length", usage=Usage(prompt_tokens=len(prompt)))
                return
            answer = _LocalAnswer(self, prepared, ask, job, start=len(echo[0].text) if echo else 0)
            try:
                async for index, event in job:
                    for made in answer.of(index, event):
                        yield made
            except EngineError as error:
                raise ApiError(500, str(error), type="server_error") from error

    async def _lined_up(self, prepared: Prepared, ask: Ask, salt: bytes) -> Job:
        try:
            return await self.worker.submit(prepared.request, n=ask.n, salt=salt)
        except RequestError as error:
            raise invalid(error) from error

    async def replay(self, receipt: Receipt, *, salt: bytes = b"") -> Difference | None:
        """The first difference between a receipt and what comes out now. Raises ApiError."""
        try:
            requests = await asyncio.to_thread(receipt.requests, self.llm)
            jobs = [await self.worker.submit(request, salt=salt) for request in requests]
        except MohistError as error:
            raise invalid(error) from error
        completions = []
        try:
            for job in jobs:
                async for _, event in job:
                    if isinstance(event, FinishEvent):
                        completions.append(event.completion)
        except EngineError as error:
            raise ApiError(500, str(error), type="server_error") from error
        finally:
            for job in jobs:
                job.close()
        return compare(receipt, completions)

    async def close(self) -> None:
        """End the model's thread."""
        await asyncio.to_thread(self.worker.stop)

    async def _echo(self, ask: Ask, prompt: tuple[int, ...], salt: bytes) -> list[Piece]:
        """The prompt as the beginning of every choice."""
        tokenizer = self.llm.chat.tokenizer
        text = ask.prompt if isinstance(ask.prompt, str) else tokenizer.decode(prompt)
        infos: tuple[TokenInfo, ...] = ()
        if ask.top_logprobs is not None:
            logprobs: list[float | None] = [None]
            tops: list[TopLogprobs] = [()]
            if len(prompt) > 1:
                top = ask.top_logprobs
                scored = await self.worker.score(prompt, salt=salt, adapter=ask.adapter, top_logprobs=top)
                with closing(scored) as job:
                    async for _, event in job:
                        assert isinstance(event, ScoreEvent)
                        logprobs += event.logprobs or ()
                        tops += event.tops or [()] * (len(prompt) - 1)
            infos = tuple(spelled(tokenizer, prompt, logprobs, tops))
        return [Piece(choice=i, kind="content", text=text, tokens=infos) for i in range(ask.n)]


def _guides(llm: LLM) -> Guides:
    """The model's guides, ready before anybody waits for them."""
    guides = Guides(llm.chat, llm.decoder.config.vocab_size)
    try:
        guides.prepare()
    except RequestError as error:
        # It is told to those who ask for a form, and nobody else needs to know.
        _log.info("answers of this model cannot be given a form", extra={"reason": str(error)})
    return guides


class _LocalAnswer:
    """All choices on their way from the engine."""

    def __init__(self, model: LocalModel, prepared: Prepared, ask: Ask, job: Job, *, start: int) -> None:
        """`start`: characters that every choice has before its first token."""
        self._model, self._prepared, self._ask, self._job = model, prepared, ask, job
        self._choices = [_LocalChoice(model, index, prepared, ask, start) for index in range(ask.n)]
        self._completions: dict[int, Completion] = {}

    def of(self, index: int, event: EngineEvent) -> Sequence[Event]:
        """What the next event of a choice makes certain. Raises ApiError."""
        choice = self._choices[index]
        if isinstance(event, TokenEvent):
            pieces = choice.push(event.draw)
            if choice.just_stopped:
                self._job.abort(index)
            return pieces
        assert isinstance(event, FinishEvent), event
        rest, finished, self._completions[index] = choice.finish(event.completion)
        if self._ask.receipt and len(self._completions) == self._ask.n:
            finished = dataclasses.replace(finished, receipt=self._receipt())
        return [*rest, finished]

    def _receipt(self) -> dict[str, Any]:
        ordered = [self._completions[choice] for choice in range(self._ask.n)]
        raw, form = self._ask.prompt is not None, form_of(self._ask)
        return Receipt.of(self._model.llm, self._prepared.request, ordered, raw=raw, form=form).to_json()


class _LocalChoice:
    """One choice on its way from the engine."""

    def __init__(self, model: LocalModel, index: int, prepared: Prepared, ask: Ask, start: int) -> None:
        self._index = index
        self._stop = ask.stop
        self._text = ChoiceText(
            index,
            prepared.parser(),
            model.llm.chat.tokenizer,
            with_tokens=ask.top_logprobs is not None,
            prompt=prepared.request.prompt,
            start=start,
        )
        self._ended = False
        self.just_stopped = False
        """Whether the last token ended the text, which the engine does not know yet."""

    def push(self, draw: Draw) -> list[Piece | ToolCallPiece]:
        """The events of the next token. Tokens after the end, already on their way, are dropped."""
        if self._ended:
            self.just_stopped = False
            return []
        pieces = self._text.push(draw)
        self.just_stopped = self._ended = self._text.stopped
        return pieces

    def finish(self, completion: Completion) -> tuple[list[Piece | ToolCallPiece], Finished, Completion]:
        """The last events, and what of the completion was told.

        Raises ApiError where the answer could not have the form that was asked for.
        """
        if completion.finish_reason == "error":
            raise ApiError(400, completion.error, code="form_failed")
        rest = self._text.finish()
        count = self._text.num_tokens
        prompt = completion.usage
        reason: FinishReason = (
            "length" if completion.finish_reason == "length" and not self._ended else "stop"
        )
        usage = Usage(
            prompt_tokens=0 if self._index else prompt.prompt_tokens,
            cached_tokens=0 if self._index else prompt.cached_tokens,
            completion_tokens=count,
            reasoning_tokens=self._text.num_reasoning,
        )
        finished = Finished(
            choice=self._index,
            reason="tool_calls" if self._text.num_calls and reason == "stop" else reason,
            usage=usage,
            # A chat format may have stop strings of its own.
            stop=self._text.stop_string if self._text.stop_string in self._stop else None,
        )
        return rest, finished, _told(completion, count, reason)


def spelled(
    tokenizer: Tokenizer,
    tokens: Iterable[int],
    logprobs: Iterable[float | None],
    tops: Iterable[TopLogprobs],
) -> Iterator[TokenInfo]:
    """Tokens of a given text, each with its place in it."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0
    for token, logprob, top in zip(tokens, logprobs, tops, strict=True):
        data = tokenizer.token_bytes(token)
        likeliest = tuple((tokenizer.token_bytes(other), score) for other, score in top)
        yield TokenInfo(token=token, data=data, logprob=logprob, place=place, top=likeliest)
        place += len(decoder.decode(data))


def _told(completion: Completion, count: int, reason: FinishReason) -> Completion:
    """The completion without the tokens that were drawn after its end."""
    return dataclasses.replace(
        completion,
        tokens=completion.tokens[:count],
        logprobs=completion.logprobs[:count],
        sampled_logprobs=completion.sampled_logprobs[:count],
        top_logprobs=completion.top_logprobs[:count],
        finish_reason="length" if reason == "length" else "stop",
        usage=dataclasses.replace(completion.usage, completion_tokens=count),
    )
