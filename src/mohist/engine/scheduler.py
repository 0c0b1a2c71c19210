"""Which rows are computed in the next step, and in which blocks they live.

Running sequences followed by waiting ones are always in order of arrival: sequences are admitted from the
head of the queue, and when blocks run out the youngest running one goes back there. So the oldest sequence
moves by at least one row every step and is never preempted while another runs; since each fits into the
cache alone (the engine checks it on arrival), every request ends.

One step computes at most `max_step_tokens` rows. Each running sequence has one of them for sure, which is
all that a decoding one can use; what is spare goes to prompts, the oldest first, in chunks if need be.

A preempted sequence keeps its tokens and scores and gives up its blocks. They stay published until they are
evicted, last block first, so coming back often costs less than a block of recomputed rows.

Blocks are published when the rows that fill them are *scheduled*, so a sequence admitted later in the same
step shares them at once: the samples of one prompt compute it once, and each then computes only the rows
of its last, unshared block (1 to `block_size` of them: no block is copied, none is written by two). That
asks one thing of a runner: in each layer a chunk must see the keys and values of the chunks before it.

A step in which every sequence only decodes may also carry guesses of the tokens to come (`speculation`). Rows
of wrong guesses are written over by the next step, so only what is known to be right is ever published.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from mohist.engine.blocks import BlockManager
from mohist.engine.sequence import Chunk, Sequence, Status
from mohist.engine.speculation import Speculation
from mohist.errors import ConfigError

__all__ = ["EngineConfig", "Scheduler"]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much is done at once. No answer depends on it."""

    max_running: int = 64
    """Most sequences in one step; further ones wait."""
    max_step_tokens: int = 512
    """Most rows computed in one step, prompts and decoding together; at least `max_running`."""

    def __post_init__(self) -> None:
        if self.max_running < 1:
            raise ConfigError(f"max_running = {self.max_running}: it must be at least 1")
        if self.max_step_tokens < self.max_running:
            raise ConfigError(
                f"max_step_tokens = {self.max_step_tokens}: it must be at least max_running = "
                f"{self.max_running}, since each running sequence computes a row in every step"
            )


class Scheduler:
    """The queues. `schedule` hands out rows; the engine reports back by setting `num_computed`."""

    __slots__ = (
        "_blocks",
        "_config",
        "_speculation",
        "num_cached_tokens",
        "num_preemptions",
        "running",
        "waiting",
    )

    def __init__(
        self, blocks: BlockManager, config: EngineConfig, speculation: Speculation | None = None
    ) -> None:
        self._blocks = blocks
        self._config = config
        self._speculation = speculation
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_cached_tokens = 0

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue. It must fit into the whole cache by itself."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Let a waiting or running sequence go, because it ended or was aborted."""
        if self._speculation:
            self._speculation.forget(sequence)
        if sequence.status is Status.RUNNING:
            self.running.remove(sequence)
            self._blocks.release(sequence.blocks)
            sequence.blocks = []
        else:
            self.waiting.remove(sequence)
        sequence.status = Status.FINISHED

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step, in order of arrival; empty only if there is no sequence at all."""
        running, waiting = self.running, self.waiting
        block_size = self._blocks.block_size
        spare = self._config.max_step_tokens - len(running)
        most_running = self._config.max_running
        chunks: list[Chunk] = []
        for sequence in running:  # `_grow` shortens the list from its end, which iteration allows
            if sequence.num_rows > len(sequence.blocks) * block_size and not self._grow(sequence):
                break
            chunk = self._next_chunk(sequence, 1 + spare)
            spare -= chunk.end - chunk.start - 1
            chunks.append(chunk)
        while spare and waiting and len(running) < most_running and self._admit(waiting[0]):
            sequence = waiting.popleft()
            running.append(sequence)
            chunk = self._next_chunk(sequence, spare)
            spare -= chunk.end - chunk.start
            chunks.append(chunk)
        return self._with_drafts(chunks, spare) if self._speculation else chunks

    def computed(self, sequence: Sequence, num_rows: int) -> None:
        """Take note that the leading `num_rows` rows are in the cache, with the tokens that it has."""
        sequence.num_computed = num_rows
        self._publish(sequence, num_rows)

    def preempt_all(self) -> None:
        """Send every running sequence back to the queue, in order."""
        while self.running:
            self._preempt(self.running.pop())

    def _next_chunk(self, sequence: Sequence, most_rows: int) -> Chunk:
        start, end = sequence.num_computed, sequence.num_rows
        if end - start > most_rows:
            end = start + most_rows
        draws = scores = False
        if sequence.score_start is None:
            draws = end == sequence.num_rows
        else:
            first = sequence.first_output_row
            scores = start >= first
            if not scores:  # a chunk scores all of its rows or none
                end = min(end, first)
        self._publish(sequence, end)
        return Chunk(sequence, start, end, draws, scores)

    def _with_drafts(self, chunks: list[Chunk], spare: int) -> list[Chunk]:
        """The same chunks with guesses, if all that they do is to draw; beside prompts rows are dear."""
        assert self._speculation is not None
        if not spare or not all(chunk.draws and chunk.end - chunk.start == 1 for chunk in chunks):
            return chunks
        # A guide says what may come next, and not what may come after a guess.
        limits = [0 if chunk.sequence.guide else chunk.sequence.num_left - 1 for chunk in chunks]
        guesses = self._speculation.guess([chunk.sequence for chunk in chunks], limits, spare)
        if not guesses:
            return chunks
        return [self._with_draft(*pair) for pair in zip(chunks, guesses, strict=True)]

    def _with_draft(self, chunk: Chunk, guess: Seq[int]) -> Chunk:
        """The chunk with as much of `guess` as there are blocks for. Nobody is preempted for a guess."""
        sequence, blocks = chunk.sequence, self._blocks
        needed = blocks.num_blocks_for(sequence.num_rows + len(guess)) - len(sequence.blocks)
        for _ in range(min(needed, blocks.num_available - len(self.running))):
            sequence.blocks.append(blocks.take())
        room = len(sequence.blocks) * blocks.block_size - sequence.num_rows
        return chunk._replace(drafts=tuple(guess[:room]))

    def _publish(self, sequence: Sequence, num_rows: int) -> None:
        """Offer the full blocks among the leading rows to others, where that was not done before."""
        first, end = sequence.num_published, num_rows // self._blocks.block_size
        if first < end:
            self._blocks.extend_keys(sequence.keys, sequence.tokens, sequence.salt, end)
            for index in range(first, end):
                self._blocks.publish(sequence.blocks[index], sequence.keys[index])
            sequence.num_published = end

    def _grow(self, sequence: Sequence) -> bool:
        """Add a block to the table, preempting from the youngest on; False if that was `sequence` itself.

        One block is enough: it has blocks for all rows that were computed, and only one further token.
        """
        while not self._blocks.num_available:
            victim = self.running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks.append(self._blocks.take())
        return True

    def _preempt(self, victim: Sequence) -> None:
        if self._speculation:
            self._speculation.forget(victim)
        self._blocks.release(victim.blocks)
        victim.blocks = []
        victim.num_computed = victim.num_published = 0
        victim.status = Status.WAITING
        victim.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.appendleft(victim)

    def _admit(self, sequence: Sequence) -> bool:
        """Give the sequence blocks for all its rows, shared as far as possible; False if there are too few.

        Leaves a block for each running sequence to grow into, lest admission end in preemption.
        """
        blocks = self._blocks
        count = sequence.first_output_row // blocks.block_size
        blocks.extend_keys(sequence.keys, sequence.tokens, sequence.salt, count)
        num_blocks = blocks.num_blocks_for(sequence.num_rows)
        acquired = blocks.acquire(sequence.keys[:count], num_blocks, leaving=len(self.running))
        if acquired is None:
            return False
        sequence.blocks, sequence.num_published = acquired
        sequence.num_computed = sequence.num_published * blocks.block_size
        sequence.status = Status.RUNNING
        if not sequence.num_preemptions:
            sequence.num_cached = sequence.num_computed
            self.num_cached_tokens += sequence.num_computed
        return True
