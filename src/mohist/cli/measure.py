"""How fast a loaded model and the machine under it are: what `mohist bench` prints.

The machine's own figures are PyTorch's: reading a large array, and its float32 matrix product, whose rate at
a thousand rows is near the multiply-add peak. They are the best of several runs; the model's are medians.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from mohist.types import SamplingParams

if TYPE_CHECKING:
    from mohist.llm import LLM

__all__ = ["Machine", "Speeds", "Workload", "measure_machine", "measure_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is measured; `mohist bench` explains the fields and has the defaults."""

    prompt_tokens: int
    new_tokens: int
    batch: int
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the processor can do at best."""

    threads: int
    read_bytes_per_s: float
    flops_per_s: float

    def best(self, other: Machine) -> Machine:
        """The better of two measurements, since a neighbour on the machine only ever slows one down."""
        return Machine(
            threads=self.threads,
            read_bytes_per_s=max(self.read_bytes_per_s, other.read_bytes_per_s),
            flops_per_s=max(self.flops_per_s, other.flops_per_s),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Speeds:
    """What the model does."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    batch_tokens_per_s: float
    decode_bytes_per_token: int
    """Weights and cached keys and values that one decoded token reads."""
    flops_per_token: int
    """Operations of one token in the middle of the prefilled prompt."""

    def fractions(self, machine: Machine) -> dict[str, float]:
        """How much of the machine is used: memory reads when decoding, multiply-adds when prefilling."""
        return {
            "decode_of_memory_bandwidth": self.decode_tokens_per_s
            * self.decode_bytes_per_token
            / machine.read_bytes_per_s,
            "prefill_of_multiply_add_rate": self.prefill_tokens_per_s
            * self.flops_per_token
            / machine.flops_per_s,
        }


def measure_machine(threads: int) -> Machine:
    """Time reads of an array that no cache holds, and matrix products that the caches hold well."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        array = torch.ones(1 << 26)
        matrix = torch.ones(1024, 1024)
        read_s = min(timed(lambda: array.sum()) for _ in range(7))
        multiply_s = min(timed(lambda: matrix @ matrix) for _ in range(15))
    finally:
        torch.set_num_threads(before)
    return Machine(
        threads=threads, read_bytes_per_s=array.nbytes / read_s, flops_per_s=2 * 1024**3 / multiply_s
    )


def measure_model(llm: LLM, workload: Workload, progress: Callable[[str], None]) -> Speeds:
    """Time prefill, one stream, and a batch; every run on other random tokens, so no prefix is cached."""
    noise = random.Random(0)
    vocab = llm.decoder.config.vocab_size

    def tokens(count: int) -> list[int]:
        return [noise.randrange(vocab) for _ in range(count)]

    def run(prompts: list[list[int]], new_tokens: int) -> float:
        params = SamplingParams(max_tokens=new_tokens, temperature=0.0)
        return timed(lambda: llm.engine.generate(prompts, params))

    def after_the_first(new_tokens: int) -> float:
        params = SamplingParams(max_tokens=new_tokens + 1, temperature=0.0)
        stamps = [perf_counter() for _ in llm.engine.stream(tokens(16), params)]
        return stamps[new_tokens] - stamps[0]

    prefill_s, decode_s, batch_s = [], [], []
    run([tokens(32)], 8)  # pages of weights and cache, threads
    for repeat in range(workload.repeats):
        progress(f"run {repeat + 1} of {workload.repeats}")
        prefill_s.append(run([tokens(workload.prompt_tokens)], 1))
        decode_s.append(after_the_first(workload.new_tokens) / workload.new_tokens)
        shared = tokens(64)
        batch_s.append(run([shared + tokens(64) for _ in range(workload.batch)], workload.new_tokens))
    return Speeds(
        prefill_tokens_per_s=workload.prompt_tokens / statistics.median(prefill_s),
        decode_tokens_per_s=1 / statistics.median(decode_s),
        batch_tokens_per_s=workload.batch * workload.new_tokens / statistics.median(batch_s),
        decode_bytes_per_token=bytes_per_token(llm, 16 + workload.new_tokens // 2),
        flops_per_token=llm.flops_per_token(workload.prompt_tokens // 2),
    )


def bytes_per_token(llm: LLM, context_tokens: int) -> int:
    """What one token reads: weights (of experts the chosen, not the embedding), keys and values."""
    from mohist.model.config import MoeConfig
    from mohist.model.count import cache_values_per_token
    from mohist.model.tensors import Matrix

    config = llm.decoder.config
    total = cache_values_per_token(config) * 4 * context_tokens
    for name, module in llm.decoder.tensors().items():
        if (
            not isinstance(module, Matrix)
            or name.startswith("mtp.")
            or (name == "embed" and not config.tie_embeddings)
        ):
            continue
        size = sum(weight.data.nbytes for weight in module.weights())
        mlp = config.layers[int(name.split(".")[1])].mlp if ".mlp." in name else None
        chosen = isinstance(mlp, MoeConfig) and module.num_groups == mlp.num_experts
        total += size * mlp.top_k // mlp.num_experts if isinstance(mlp, MoeConfig) and chosen else size
    return total


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = perf_counter()
    work()
    return perf_counter() - start
