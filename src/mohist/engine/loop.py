"""The step loop: schedule rows, compute them, append the tokens that were drawn, tell what happened.

`StepLoop.advance` is one turn of it. An answer depends on nothing but weights, prompt, params, seed and
sample index. All else here is bookkeeping, and it never redraws a token: a preempted request goes on from
the tokens it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import zip_longest

from mohist.engine.blocks import BlockManager
from mohist.engine.guiding import NOTHING_ALLOWED, guide_on
from mohist.engine.inboxes import Inboxes
from mohist.engine.interface import EngineStats, Runner
from mohist.engine.scheduler import EngineConfig, Scheduler
from mohist.engine.sequence import Chunk, Draw, Event, FinishEvent, Outcome, ScoreEvent, Sequence, TokenEvent
from mohist.engine.speculation import Speculation

__all__ = ["StepLoop"]


class StepLoop:
    """Unfinished sequences and the steps that move them; their events go to `inboxes`."""

    def __init__(
        self,
        runner: Runner,
        config: EngineConfig,
        speculation: Speculation | None,
        clock: Callable[[], float],
        inboxes: Inboxes,
    ) -> None:
        self._runner, self._speculation, self._clock, self._inboxes = runner, speculation, clock, inboxes
        self._blocks = BlockManager(runner.num_blocks, runner.block_size)
        self.scheduler = Scheduler(self._blocks, config, speculation)
        self.unfinished: dict[int, Sequence] = {}
        """By id, in order of arrival."""
        self._num_steps = self._num_computed = self._num_generated = 0
        self._num_drafted = self._num_accepted = 0

    def add(self, sequence: Sequence) -> None:
        """Line up a new sequence."""
        self.unfinished[sequence.id] = sequence
        self.scheduler.add(sequence)

    def advance(self) -> None:
        """Compute one batch of rows.

        An error of the runner passes through. No event is lost by it, and the running sequences are waiting
        again with the tokens they have.
        """
        chunks = self.scheduler.schedule()
        if not chunks:
            assert not self.unfinished, "requests are unfinished, but nothing was scheduled"
            return
        start = self._clock()
        try:
            outcomes = self._runner.run(chunks)
        except BaseException:
            # Blocks were published for rows that may never have been written.
            self.scheduler.preempt_all()
            self._blocks.reset()
            raise
        seconds = self._clock() - start
        self._num_steps += 1
        self._num_computed += sum(chunk.num_rows for chunk in chunks)
        if self._speculation is not None:
            self._speculation.observe(chunks, outcomes, seconds)
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            if chunk.draws:
                self._take_draws(chunk, outcome.draws)
            else:
                self._take_rows(chunk, outcome)

    def _take_draws(self, chunk: Chunk, draws: tuple[Draw, ...]) -> None:
        """Append the first token, and one more for every guess before it that was right."""
        sequence = chunk.sequence
        assert len(draws) == chunk.num_draws, f"{len(draws)} tokens drawn, not {chunk.num_draws}"
        if draws[0].token < 0:
            self._end(sequence, FinishEvent(sequence.id, sequence.completion("error", NOTHING_ALLOWED)))
            return
        num_before, error = sequence.num_generated, ""
        for draw, guess in zip_longest(draws, chunk.drafts):
            reason = sequence.append(draw)
            self._inboxes.put(TokenEvent(sequence.id, draw))
            if reason is None and sequence.guide is not None:
                error = guide_on(sequence, self._runner.vocab_size)
                reason = "error" if error else None
            if reason is not None or draw.token != guess:
                break
        num_drawn = sequence.num_generated - num_before
        self._num_generated += num_drawn
        self._num_drafted += len(chunk.drafts)
        self._num_accepted += num_drawn - 1
        sequence.num_drafted += len(chunk.drafts)
        sequence.num_accepted += num_drawn - 1
        self.scheduler.computed(sequence, sequence.num_rows - 1)
        if reason is not None:
            self._end(sequence, FinishEvent(sequence.id, sequence.completion(reason, error)))

    def _take_rows(self, chunk: Chunk, outcome: Outcome) -> None:
        sequence = chunk.sequence
        sequence.scores.extend(outcome.logprobs)
        sequence.score_tops.extend(outcome.tops)
        self.scheduler.computed(sequence, chunk.end)
        if chunk.scores and chunk.end == sequence.num_rows:
            self._end(sequence, ScoreEvent(sequence.id, tuple(sequence.scores), tuple(sequence.score_tops)))

    def _end(self, sequence: Sequence, last: Event) -> None:
        self.scheduler.remove(sequence)
        del self.unfinished[sequence.id]
        self._inboxes.put(last)

    def advance_alone(self, sequence: Sequence) -> None:
        """A step of one sequence, while all others wait. Raises as `advance` does."""
        self.scheduler.preempt_all()
        self.scheduler.waiting = deque([sequence])
        try:
            self.advance()
        finally:
            self.scheduler.preempt_all()
            self.scheduler.waiting = deque(self.unfinished.values())

    def abort(self, sequence: Sequence) -> None:
        """End an unfinished sequence with what it has; its last event says so."""
        if sequence.score_start is None:
            self._end(sequence, FinishEvent(sequence.id, sequence.completion("abort")))
        else:
            self._end(sequence, ScoreEvent(sequence.id, None))

    def forget_prefixes(self) -> None:
        """Drop all cached rows. No sequence may be unfinished."""
        self._blocks.reset()

    def stats(self) -> EngineStats:
        """Counts of this moment and since the engine was made."""
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            blocks_used=self._blocks.num_held,
            blocks_total=self._blocks.num_blocks,
            steps=self._num_steps,
            computed_tokens=self._num_computed,
            generated_tokens=self._num_generated,
            cached_tokens=self.scheduler.num_cached_tokens,
            preemptions=self.scheduler.num_preemptions,
            drafted_tokens=self._num_drafted,
            accepted_tokens=self._num_accepted,
        )

    def check(self) -> None:
        """Assert that blocks, queues and requests agree."""
        self._blocks.check(sequence.blocks for sequence in self.unfinished.values())
        queued = [*self.scheduler.running, *self.scheduler.waiting]
        assert queued == list(self.unfinished.values()), "the queues do not hold the requests in order"
