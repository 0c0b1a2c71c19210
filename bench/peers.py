"""The engines that are compared, each behind the same few calls, and each in a process of its own.

Every call does one run and returns seconds. A peer is imported and loaded only in its own process (see
`bench.workers`), so that memory and thread pools of one do not disturb another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from mohist.kernels.weight import TargetFormat

__all__ = ["Answered", "LlamaCpp", "Mohist", "Peer", "Step", "Transformers"]

TOP = 64
"""Tokens whose logprobs are compared at each position."""


class Step(NamedTuple):
    """One token of a greedy answer, and the likeliest tokens there as (token, logprob)."""

    token: int
    top: tuple[tuple[int, float], ...]


class Answered(NamedTuple):
    """One answer, what it took and what was guessed of it."""

    seconds: float
    tokens: tuple[int, ...]
    drafted: int
    accepted: int


class Peer(Protocol):
    """An engine with a loaded model. Nothing ends at a stop token: every run has the length asked for."""

    def prefill(self, prompt: list[int]) -> float:
        """Seconds until the likeliest token after a prompt is known."""
        ...

    def decode(self, prompt: list[int], count: int) -> float:
        """Seconds for `count` tokens of one greedy stream after its first, one at a time."""
        ...

    def batch(self, prompts: list[list[int]], shared: int, lengths: list[int]) -> float:
        """Seconds to answer all prompts, which begin with `shared` equal tokens, with so many tokens each."""
        ...

    def greedy(self, prompt: list[int], count: int) -> list[Step]:
        """A greedy answer of `count` tokens."""
        ...


class Mohist:
    """The engine of this repository, as `LLM.load` makes it."""

    def __init__(
        self, path: str, threads: int, quantize: TargetFormat | None, speculate: str = "off"
    ) -> None:
        from mohist.llm import LLM

        torch.set_num_threads(threads)
        self._llm = LLM.load(path, threads=threads, quantize=quantize, speculate=speculate)
        self._engine = self._llm.engine

    def prefill(self, prompt: list[int]) -> float:
        """See `Peer.prefill`."""
        return self.batch([prompt], 0, [1])

    def decode(self, prompt: list[int], count: int) -> float:
        """See `Peer.decode`."""
        from mohist.types import SamplingParams

        params = SamplingParams(max_tokens=count + 1, temperature=0)
        stamps = [perf_counter() for _ in self._engine.stream(prompt, params)]
        return stamps[count] - stamps[0]

    def batch(self, prompts: list[list[int]], shared: int, lengths: list[int]) -> float:
        """See `Peer.batch`; the engine finds shared prefixes by itself."""
        from mohist.types import Request, SamplingParams

        requests = [
            Request(prompt=tuple(prompt), params=SamplingParams(max_tokens=length, temperature=0))
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        start = perf_counter()
        completions = self._engine.generate(requests)
        seconds = perf_counter() - start
        assert [len(completion.tokens) for completion in completions] == lengths
        return seconds

    def greedy(self, prompt: list[int], count: int) -> list[Step]:
        """See `Peer.greedy`."""
        from mohist.types import SamplingParams

        params = SamplingParams(max_tokens=count, temperature=0, top_logprobs=TOP)
        (done,) = self._engine.generate([prompt], params)
        return [Step(*step) for step in zip(done.tokens, done.top_logprobs, strict=True)]

    def answer(self, question: str, seed: int, temperature: float, count: int) -> Answered:
        """A whole answer of at most `count` tokens."""
        from mohist.types import SamplingParams

        params = SamplingParams(
            max_tokens=count, temperature=temperature, seed=seed, stop_tokens=self.stop_tokens()
        )
        prompt = self.render(question)
        start = perf_counter()
        (done,) = self._engine.generate([prompt], params)
        seconds = perf_counter() - start
        usage = done.usage
        return Answered(seconds, done.tokens, usage.drafted_tokens, usage.accepted_tokens)

    def render(self, question: str) -> list[int]:
        """The prompt tokens of a question, by the chat template."""
        from mohist.types import Message

        return self._llm.render([Message(role="user", content=question)])

    def stop_tokens(self) -> tuple[int, ...]:
        """What ends an answer."""
        return self._llm.chat.stop_tokens

    def decode_bytes(self, context_tokens: int) -> int:
        """Bytes of weights, keys and values that a decoded token reads."""
        from mohist.cli.measure import bytes_per_token

        return bytes_per_token(self._llm, context_tokens)

    def prefill_flops(self, count: int) -> int:
        """Floating-point operations of a prompt: only its last row meets the output head."""
        config = self._llm.decoder.config
        head = 2 * config.vocab_size * config.hidden_size
        return sum(self._llm.flops_per_token(i + 1) - head for i in range(count)) + head

    def decode_flops(self, context_tokens: int) -> int:
        """Floating-point operations of one new token."""
        return self._llm.flops_per_token(context_tokens)


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level interface, as its own defaults set it up."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._api: Any = llama_cpp
        self._threads = threads
        # Loading is reported at length; errors come back as return codes.
        self._silence = self._api.llama_log_callback(lambda level, text, data: None)
        self._api.llama_log_set(self._silence, None)
        self._model = self._api.llama_model_load_from_file(
            path.encode(), self._api.llama_model_default_params()
        )
        self._vocab_size = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self._batch = self._api.llama_batch_init(2048, 0, 1)
        self._sampler = self._api.llama_sampler_init_greedy()
        self._contexts: dict[int, Any] = {}
        self._use(sequences=1)

    def prefill(self, prompt: list[int]) -> float:
        """See `Peer.prefill`."""
        self._use(sequences=1)
        start = perf_counter()
        self._prompt(prompt)
        self._best(-1)
        return perf_counter() - start

    def decode(self, prompt: list[int], count: int) -> float:
        """See `Peer.decode`."""
        self.prefill(prompt)
        token = self._best(-1)
        start = perf_counter()
        for i in range(count):
            self._decode([(token, len(prompt) + i, 0, True)])
            token = self._best(-1)
        return perf_counter() - start

    def batch(self, prompts: list[list[int]], shared: int, lengths: list[int]) -> float:
        """See `Peer.batch`: the prefix is computed once and copied; a sequence that is done leaves."""
        self._use(sequences=len(prompts))
        start = perf_counter()
        self._decode([(token, i, 0, False) for i, token in enumerate(prompts[0][:shared])])
        for sequence in range(1, len(prompts)):
            self._api.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        rows = [
            (token, shared + i, sequence, i == len(prompt) - shared - 1)
            for sequence, prompt in enumerate(prompts)
            for i, token in enumerate(prompt[shared:])
        ]
        self._decode(rows)
        ends = [i for i, row in enumerate(rows) if row[3]]
        tokens = {sequence: self._best(end) for sequence, end in enumerate(ends)}
        made = dict.fromkeys(tokens, 1)
        while tokens := {s: t for s, t in tokens.items() if made[s] < lengths[s]}:
            self._decode([(t, len(prompts[s]) + made[s] - 1, s, True) for s, t in tokens.items()])
            for row, sequence in enumerate(list(tokens)):
                tokens[sequence] = self._best(row)
                made[sequence] += 1
        return perf_counter() - start

    def greedy(self, prompt: list[int], count: int) -> list[Step]:
        """See `Peer.greedy`."""
        self._use(sequences=1)
        self._prompt(prompt)
        steps = [self._step()]
        while len(steps) < count:
            self._decode([(steps[-1].token, len(prompt) + len(steps) - 1, 0, True)])
            steps.append(self._step())
        return steps

    def _use(self, sequences: int) -> None:
        """Work with an empty context for that many sequences, each with a cache of its own."""
        if sequences not in self._contexts:
            params = self._api.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_seq_max = 1024 * sequences, 2048, sequences
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts[sequences] = self._api.llama_init_from_model(self._model, params)
        self._context = self._contexts[sequences]
        self._memory = self._api.llama_get_memory(self._context)
        self._api.llama_memory_clear(self._memory, True)

    def _prompt(self, prompt: Sequence[int]) -> None:
        self._decode([(token, i, 0, i == len(prompt) - 1) for i, token in enumerate(prompt)])

    def _decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """Compute rows of (token, position, sequence, wants logits)."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        status = self._api.llama_decode(self._context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def _best(self, row: int) -> int:
        return self._api.llama_sampler_sample(self._sampler, self._context, row)

    def _step(self) -> Step:
        pointer = self._api.llama_get_logits_ith(self._context, -1)
        address = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float))
        return greedy_step(torch.from_numpy(np.ctypeslib.as_array(address, (self._vocab_size,))))


class Transformers:
    """transformers in float32."""

    def __init__(self, folder: str, threads: int) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def prefill(self, prompt: list[int]) -> float:
        """See `Peer.prefill`."""
        start = perf_counter()
        self._model(torch.tensor([prompt]), logits_to_keep=1).logits.argmax(-1).item()
        return perf_counter() - start

    @torch.inference_mode()
    def decode(self, prompt: list[int], count: int) -> float:
        """See `Peer.decode`."""
        out = self._model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        start = perf_counter()
        for _ in range(count):
            token = out.logits.argmax(-1)
            out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
        out.logits.argmax(-1).item()
        return perf_counter() - start

    @torch.inference_mode()
    def batch(self, prompts: list[list[int]], shared: int, lengths: list[int]) -> float:
        """See `Peer.batch`: all prompts whole, as one batch that lasts as long as its longest answer."""
        tokens = torch.tensor(prompts)
        start = perf_counter()
        answer = self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=max(lengths),
            do_sample=False,
            pad_token_id=0,
        )
        seconds = perf_counter() - start
        assert answer.shape == (len(prompts), len(prompts[0]) + max(lengths)), answer.shape
        return seconds

    @torch.inference_mode()
    def greedy(self, prompt: list[int], count: int) -> list[Step]:
        """See `Peer.greedy`."""
        out = self._model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
        steps = [greedy_step(out.logits[0, -1])]
        while len(steps) < count:
            token = torch.tensor([[steps[-1].token]])
            out = self._model(token, past_key_values=out.past_key_values, use_cache=True)
            steps.append(greedy_step(out.logits[0, -1]))
        return steps


def greedy_step(logits_V: torch.Tensor) -> Step:
    """The likeliest token of float32 logits [V]; logprobs in float64."""
    logprobs, tokens = logits_V.double().log_softmax(-1).topk(TOP)
    return Step(int(tokens[0]), tuple(zip(tokens.tolist(), logprobs.tolist(), strict=True)))
