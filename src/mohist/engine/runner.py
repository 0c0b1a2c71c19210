"""The part of the engine that touches tensors: model, cache and sampler behind `Engine`'s `Runner` protocol.

Decoding consists of steps in which every row draws a token: one row for a sequence, and one for each guess of
its next tokens. The whole forward pass of such a step, sampling included, is recorded once for each number of
rows and then replayed in a single call; only the contents of the input buffers change. Every other step runs
op by op. Both run the same ops.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import islice, repeat
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mohist.engine.sequence import Chunk, Draw, Outcome, Sequence
from mohist.kernels.native import NativeOps, SampleBuffers, Tape
from mohist.kernels.ops import CacheSpec, KvCache, Ops, RowPlan, StateCache, new_cache
from mohist.kernels.sampling import SampledRows, SampleRow
from mohist.model.adapters import Adapters, Span
from mohist.model.attend import Attend
from mohist.model.config import DecoderConfig
from mohist.model.count import state_values
from mohist.model.decoder import Decoder
from mohist.types import TopLogprobs

__all__ = ["CachedAttend", "DecoderRunner", "block_size", "default_cache_tokens"]

MAX_TAPED_ROWS = 64
"""Steps with more rows than this run op by op: what a replay saves no longer matters."""
MAX_TAPES = 256
"""Recorded at one time; with adapters there may be more different steps than that, and the oldest goes."""
MAX_TOP = 64
"""`SamplingParams.top_logprobs` at most."""
LEAST_CACHE_TOKENS = 16_384
"""As many as 64 answers of 256 tokens take."""
LOGIT_ROWS = 256
"""Rows whose logits exist at one time."""


BLOCK_SIZE = 16
"""Tokens in a cache block: prefixes are shared in steps of this many."""
STATE_BLOCK_SIZE = 256
"""The same where each block also holds states of linear attention, each as large as many tokens' keys."""


def block_size(decoder: Decoder) -> int:
    """Tokens in a cache block for this model."""
    return STATE_BLOCK_SIZE if state_values(decoder.config) else BLOCK_SIZE


def default_cache_tokens(config: DecoderConfig) -> int:
    """Tokens that the cache holds where nobody says how many: the model's context, and many short answers."""
    return max(config.max_positions, LEAST_CACHE_TOKENS)


class CachedAttend(Attend):
    """`Attend` over a paged cache: keys and values stay for later steps."""

    def __init__(self, ops: Ops, caches: Mapping[CacheSpec, KvCache | StateCache], rows: RowPlan) -> None:
        super().__init__(ops, rows)
        self._caches = caches

    def _cache(self, spec: CacheSpec) -> KvCache | StateCache:
        return self._caches[spec]


class _DecodeStep:
    """Buffers of steps with up to `MAX_TAPED_ROWS` rows, and a tape for each number of rows."""

    def __init__(self, runner: DecoderRunner, ops: NativeOps) -> None:
        self._runner, self._ops = runner, ops
        self._tokens_T = torch.zeros(MAX_TAPED_ROWS, dtype=torch.int32)
        self._positions_T = torch.zeros(MAX_TAPED_ROWS, dtype=torch.int32)
        self._sequence_T = torch.zeros(MAX_TAPED_ROWS, dtype=torch.int32)
        width = -(-runner.max_positions // runner.block_size)
        self._tables_SB = torch.zeros(MAX_TAPED_ROWS, width, dtype=torch.int32)
        # numpy writes single numbers faster
        self._tokens, self._positions = self._tokens_T.numpy(), self._positions_T.numpy()
        self._sequence = self._sequence_T.numpy()
        self._tables = self._tables_SB.numpy()
        self._buffers = SampleBuffers(MAX_TAPED_ROWS, min(MAX_TOP, runner.vocab_size))
        self._tapes: dict[tuple[int, tuple[Span, ...]], tuple[Tape, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Drop the tapes: they point at weights that were replaced."""
        self._tapes.clear()

    def run(self, chunks: Seq[Chunk]) -> tuple[SampledRows, Tensor]:
        """Compute the rows of these chunks and draw from each; hidden states [T, D] last until the next."""
        count = 0
        for i, chunk in enumerate(chunks):
            for position, token in enumerate(chunk.tokens, chunk.start):
                self._tokens[count], self._positions[count], self._sequence[count] = token, position, i
                count += 1
            blocks = chunk.sequence.blocks
            self._tables[i, : len(blocks)] = blocks
        self._buffers.fill([row for chunk in chunks for row in self._runner.sample_rows(chunk)])
        tape, hidden_TD = self.tape(count, adapter_spans(chunks))
        tape.replay()
        return self._buffers.read(count), hidden_TD

    def tape(self, count: int, spans: tuple[Span, ...] = ()) -> tuple[Tape, Tensor]:
        """The recorded step of so many rows, some with adapters, and where their hidden states will be."""
        if (count, spans) not in self._tapes:
            rows = RowPlan(self._positions_T[:count], self._sequence_T[:count], self._tables_SB)
            with self._ops.record() as tape:
                hidden_TD = self._runner.forward(self._tokens_T[:count], rows, spans)
                logits_TV = self._runner.decoder.logits(hidden_TD)
                self._ops.sample_into(logits_TV, self._buffers)
            if len(self._tapes) == MAX_TAPES:
                del self._tapes[next(iter(self._tapes))]
            self._tapes[count, spans] = tape, hidden_TD, logits_TV
        return self._tapes[count, spans][:2]


class DecoderRunner:
    """A decoder with a paged cache of `num_blocks` blocks of `block_size` tokens.

    Memory for a block is taken from the system when it is first used.
    """

    def __init__(self, decoder: Decoder, ops: Ops, *, num_blocks: int, block_size: int = 16) -> None:
        self.decoder, self.ops = decoder, ops
        self.num_blocks, self.block_size = num_blocks, block_size
        self.max_positions = decoder.config.max_positions
        self.vocab_size = decoder.config.vocab_size
        self.keeps_hidden = False
        """Whether outcomes carry hidden states, for whoever drafts with them."""
        self._caches = {
            spec: new_cache(spec, num_blocks=num_blocks, block_size=block_size, device=ops.device)
            for spec in decoder.cache_specs
        }
        self._adapters = Adapters(decoder)
        self.rewinds = not any(isinstance(cache, StateCache) for cache in self._caches.values())
        self._decode = _DecodeStep(self, ops) if isinstance(ops, NativeOps) else None
        self._seen: WeakKeyDictionary[Sequence, dict[int, int]] = WeakKeyDictionary()

    @property
    def adapter_keys(self) -> Mapping[str, bytes]:
        """See `Runner`."""
        return self._adapters.keys

    def add_adapter(self, name: str, folder: Path) -> None:
        """Let requests name the adapter in `folder` (see `Adapters.add`)."""
        self._adapters.add(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter (see `Adapters.remove`); no unfinished request may name it."""
        self._adapters.remove(name)
        self.weights_changed()

    def weights_changed(self) -> None:
        """The decoder's tensors have new values."""
        if self._decode is not None:
            self._decode.forget()

    @torch.inference_mode()
    def prepare(self, sizes: Iterable[int]) -> None:
        """Record decoding steps of so many rows now, rather than when they first occur."""
        if self._decode is not None:
            for count in sizes:
                self._decode.tape(count)

    @torch.inference_mode()
    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        """Compute the rows of a step; one outcome for each chunk (see `Runner`)."""
        if any(chunk.sequence.adapter for chunk in chunks):
            # Side by side for each adapter. Nothing else depends on the order: all store, then all attend.
            ordered = sorted(chunks, key=lambda chunk: chunk.sequence.adapter or "")
            found = dict(zip((chunk.sequence for chunk in ordered), self._run(ordered), strict=True))
            return [found[chunk.sequence] for chunk in chunks]
        return self._run(chunks)

    def _run(self, chunks: list[Chunk]) -> list[Outcome]:
        num_rows = sum(chunk.num_rows for chunk in chunks)
        decodes = num_rows == sum(chunk.num_draws for chunk in chunks)
        if self._decode is not None and decodes and num_rows <= MAX_TAPED_ROWS:
            sampled, hidden_TD = self._decode.run(chunks)
            draws, hidden = iter(_draws(sampled)), self._hidden(hidden_TD, chunks)
            return [Outcome(tuple(islice(draws, chunk.num_draws)), (), next(hidden)) for chunk in chunks]
        return self._run_eagerly(chunks)

    def forward(self, tokens_T: Tensor, rows: RowPlan, spans: Seq[Span] = ()) -> Tensor:
        """Hidden states [T, D] of these rows, their keys and values stored."""
        attend = CachedAttend(self.ops, self._caches, rows)
        with self._adapters.at_work(spans):
            return self.decoder(tokens_T, rows.positions_T, attend)

    def sample_rows(self, chunk: Chunk) -> list[SampleRow]:
        """How the tokens after a chunk and after each of its guesses are drawn."""
        sequence, seen = chunk.sequence, self._seen_tokens(chunk.sequence)
        rows = [SampleRow(sequence.params, sequence.sample, chunk.end, seen, sequence.allowed)]
        for position, token in enumerate(chunk.drafts, chunk.end + 1):
            if seen:
                seen = {**seen, token: seen.get(token, 0) + 1}
            rows.append(SampleRow(sequence.params, sequence.sample, position, seen))
        return rows

    def _seen_tokens(self, sequence: Sequence) -> dict[int, int]:
        """Each token of the sequence with its count in the answer, if a penalty asks for it."""
        p = sequence.params
        if p.repetition_penalty == 1 and p.presence_penalty == 0 and p.frequency_penalty == 0:
            return {}
        seen = self._seen.get(sequence)
        if seen is None:
            seen = self._seen[sequence] = dict.fromkeys(sequence.prompt, 0)
        for token in sequence.tokens[len(sequence.prompt) + sum(seen.values()) :]:
            seen[token] = seen.get(token, 0) + 1
        return seen

    def _run_eagerly(self, chunks: list[Chunk]) -> list[Outcome]:
        tokens: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        ends: list[int] = []  # of each chunk, among the rows
        for i, chunk in enumerate(chunks):
            tokens += chunk.tokens
            positions += range(chunk.start, chunk.start + chunk.num_rows)
            owners += [i] * chunk.num_rows
            ends.append(len(tokens))
        width = max(len(chunk.sequence.blocks) for chunk in chunks)
        tables = [chunk.sequence.blocks + [0] * (width - len(chunk.sequence.blocks)) for chunk in chunks]
        rows = RowPlan(self._ints(positions), self._ints(owners), self._ints(tables))
        hidden_TD = self.forward(self._ints(tokens), rows, adapter_spans(chunks))
        drawn = [
            row for chunk, end in zip(chunks, ends, strict=True) for row in range(end - chunk.num_draws, end)
        ]
        sample_rows = [row for chunk in chunks if chunk.draws for row in self.sample_rows(chunk)]
        draws = iter(self._draw(hidden_TD[drawn], sample_rows))
        outcomes, hidden = [], self._hidden(hidden_TD, chunks)
        for chunk, end in zip(chunks, ends, strict=True):
            scores: tuple[float, ...] = ()
            tops: tuple[TopLogprobs, ...] = ()
            if chunk.scores:
                scores = self._score(hidden_TD[end - chunk.num_rows : end], chunk)
                tops = self._tops(hidden_TD[end - chunk.num_rows : end], chunk)
            outcomes.append(Outcome(tuple(islice(draws, chunk.num_draws)), scores, next(hidden), tops))
        return outcomes

    def _hidden(self, hidden_TD: Tensor, chunks: Seq[Chunk]) -> Iterator[Tensor | None]:
        """The hidden states of each chunk, copied, if they are kept."""
        if not self.keeps_hidden:
            return repeat(None)
        return iter(hidden_TD.clone().split([chunk.num_rows for chunk in chunks]))

    def _draw(self, hidden_TD: Tensor, rows: Seq[SampleRow]) -> list[Draw]:
        draws: list[Draw] = []
        for first in range(0, len(rows), LOGIT_ROWS):
            logits_TV = self.decoder.logits(hidden_TD[first : first + LOGIT_ROWS])
            draws += _draws(self.ops.sample(logits_TV, rows[first : first + LOGIT_ROWS]))
        return draws

    def _score(self, hidden_TD: Tensor, chunk: Chunk) -> tuple[float, ...]:
        targets = self._ints(chunk.sequence.tokens[chunk.start + 1 : chunk.end + 1])
        return tuple(self.decoder.logprobs(hidden_TD, targets, chunk=LOGIT_ROWS).tolist())

    def _tops(self, hidden_TD: Tensor, chunk: Chunk) -> tuple[TopLogprobs, ...]:
        """The likeliest tokens after every row, by the kernel that reports them beside drawn ones."""
        sequence = chunk.sequence
        if not sequence.params.top_logprobs:
            return ()
        positions = range(chunk.start + 1, chunk.end + 1)
        rows = [SampleRow(sequence.params, sequence.sample, position, {}) for position in positions]
        return tuple(draw.top for draw in self._draw(hidden_TD, rows))

    def _ints(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self.ops.device)


def adapter_spans(chunks: Seq[Chunk]) -> tuple[Span, ...]:
    """Which rows of these chunks belong to which adapter, one span each where they lie side by side."""
    spans: list[Span] = []
    end = 0
    for chunk in chunks:
        start, end = end, end + chunk.num_rows
        adapter = chunk.sequence.adapter
        if spans and spans[-1].adapter == adapter and spans[-1].end == start:
            spans[-1] = spans[-1]._replace(end=end)
        elif adapter is not None:
            spans.append(Span(adapter, start, end))
    return tuple(spans)


def _draws(rows: SampledRows) -> list[Draw]:
    return [Draw(*row) for row in zip(*rows, strict=True)]
