"""Guesses by the model's own multi-token module (DeepSeek-V3, arXiv 2412.19437, section 2.2).

The module reads the hidden state of row p beside token p+1 and predicts token p+2. It has one more layer's
cache, in the blocks of the sequence. Its own hidden state, beside its own guess, predicts one token further.

Its rows follow those of the model, `BATCH` at a time or when a guess is wanted. A sequence that takes over
cached blocks takes what others have left of the module's cache there: guesses may suffer, tokens cannot.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mohist.engine.runner import CachedAttend, DecoderRunner
from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.errors import ConfigError
from mohist.kernels.ops import RowPlan, new_cache
from mohist.kernels.sampling import SampleRow
from mohist.model.mixers import cache_specs
from mohist.types import SamplingParams

__all__ = ["MtpDrafter", "without_penalties"]

BATCH = 64
"""Rows that may wait for the module, so that its weights are not read for every single one."""


def without_penalties(params: SamplingParams) -> SamplingParams:
    """How a guess is drawn: with the noise of its position, so that it is likely to be what will be drawn."""
    return params.replace(repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0, top_logprobs=0)


@dataclass(slots=True, eq=False)
class _State:
    """How far the module has come with a sequence."""

    params: SamplingParams
    next_row: int
    waiting: list[Tensor] = field(default_factory=list)
    """The model's hidden states of the rows from `next_row` on, [D] each."""
    last_D: Tensor | None = None
    """The module's hidden state of the row before."""


class MtpDrafter:
    """A `Drafter` that uses the first MTP module of the runner's decoder, again and again."""

    def __init__(self, runner: DecoderRunner) -> None:
        """Raises ConfigError, if the model has no such module."""
        self._runner, self._decoder, self._ops = runner, runner.decoder, runner.ops
        if not self._decoder.config.mtp_layers:
            raise ConfigError("speculate = 'mtp': this model has no multi-token module; use lookup or off")
        config = self._decoder.config
        self._caches = {
            spec: new_cache(
                spec, num_blocks=runner.num_blocks, block_size=runner.block_size, device=self._ops.device
            )
            for spec in cache_specs(config.layers[-1].mixer, len(config.layers))
        }
        self._states: WeakKeyDictionary[Sequence, _State] = WeakKeyDictionary()
        runner.keeps_hidden = True

    def backlog(self, sequence: Sequence) -> int:
        """See `Drafter`: what waits is computed in any case."""
        return 0

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome]) -> None:
        """See `Drafter`."""
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            sequence = chunk.sequence
            if sequence.score_start is not None:
                continue
            state = self._states.get(sequence)
            if state is None or state.next_row + len(state.waiting) < chunk.start:
                state = self._states[sequence] = _State(without_penalties(sequence.params), chunk.start)
            assert chunk.start >= state.next_row, (chunk, state.next_row)
            del state.waiting[chunk.start - state.next_row :]  # rows of wrong guesses
            if len(state.waiting) >= BATCH:
                self._catch_up([sequence])
            assert outcome.hidden_TD is not None
            state.waiting += outcome.hidden_TD

    def propose(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[list[int]]:
        """See `Drafter`."""
        guesses: list[list[int]] = [[] for _ in sequences]
        wanted = [i for i, count in enumerate(counts) if count and sequences[i] in self._states]
        for i in wanted:
            state = self._states[sequences[i]]
            del state.waiting[len(sequences[i].tokens) - 1 - state.next_row :]
        self._catch_up([sequences[i] for i in wanted])
        states = {i: self._states[sequences[i]] for i in wanted}
        hidden = {i: state.last_D for i, state in states.items() if state.last_D is not None}
        while hidden:
            self._guess_one([(sequences[i], guesses[i], last_D) for i, last_D in hidden.items()])
            going_on = [i for i in hidden if len(guesses[i]) < self._most(sequences[i], counts[i])]
            texts = [
                (sequences[i], len(sequences[i].tokens) + len(guesses[i]) - 2, guesses[i]) for i in going_on
            ]
            rows = [(*text, hidden[i]) for text, i in zip(texts, going_on, strict=True)]
            hidden = dict(zip(going_on, self._module(rows), strict=True)) if rows else {}
        return guesses

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._states.pop(sequence, None)

    def rest(self, rests: bool) -> None:
        """See `Drafter`. What it misses meanwhile, the module never sees."""
        self._runner.keeps_hidden = not rests
        if rests:
            self._states.clear()

    def _most(self, sequence: Sequence, count: int) -> int:
        """Guesses for whose rows the sequence has blocks; guess n comes from row len(tokens) + n - 3."""
        room = len(sequence.blocks) * self._runner.block_size
        return min(count, room - len(sequence.tokens) + 2)

    def _catch_up(self, sequences: Seq[Sequence]) -> None:
        """Compute all rows that wait; the token after each of them is known."""
        behind = [sequence for sequence in sequences if self._states[sequence].waiting]
        rows = []
        for sequence in behind:
            state = self._states[sequence]
            rows += [(sequence, state.next_row + i, (), row_D) for i, row_D in enumerate(state.waiting)]
        if not rows:
            return
        hidden_TD = self._module(rows)
        end = 0
        for sequence in behind:
            state = self._states[sequence]
            end += len(state.waiting)
            state.next_row += len(state.waiting)
            state.waiting, state.last_D = [], hidden_TD[end - 1]

    @torch.inference_mode()
    def _module(self, rows: Seq[tuple[Sequence, int, Seq[int], Tensor]]) -> Tensor:
        """Hidden states [T, D] of the module for rows (sequence, position, guesses, model's hidden state)."""
        owners = {sequence: i for i, sequence in enumerate(dict.fromkeys(sequence for sequence, *_ in rows))}
        width = max(len(sequence.blocks) for sequence in owners)
        plan = RowPlan(
            self._ints([position for _, position, *_ in rows]),
            self._ints([owners[sequence] for sequence, *_ in rows]),
            self._ints([sequence.blocks + [0] * (width - len(sequence.blocks)) for sequence in owners]),
        )
        next_tokens = [
            sequence.tokens[position + 1] if position + 1 < len(sequence.tokens) else guesses[-1]
            for sequence, position, guesses, _ in rows
        ]
        hidden_TD = torch.stack([row_D for *_, row_D in rows])
        attend = CachedAttend(self._ops, self._caches, plan)
        return self._decoder.draft(hidden_TD, self._ints(next_tokens), plan.positions_T, attend)

    @torch.inference_mode()
    def _guess_one(self, rows: Seq[tuple[Sequence, list[int], Tensor]]) -> None:
        """Draw one more guess for each, by the noise of its position, and append it."""
        logits_TV = self._decoder.logits(torch.stack([last_D for *_, last_D in rows]))
        how = [
            SampleRow(self._states[sequence].params, sequence.sample, len(sequence.tokens) + len(guesses), {})
            for sequence, guesses, _ in rows
        ]
        for (_, guesses, _), token in zip(rows, self._ops.sample(logits_TV, how).tokens, strict=True):
            guesses.append(token)

    def _ints(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device=self._ops.device)
