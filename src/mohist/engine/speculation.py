"""Guessing tokens ahead, so that one step computes several rows of a sequence.

A *drafter* guesses the next tokens. The scheduler gives the sequence a row for each guess, the sampler draws
a token after every row by the noise of its own position, just as it would without guesses, and the engine
keeps the tokens up to and with the first that was not guessed. So guesses decide how fast an answer comes and
never what it says: they may depend on time and load, tokens do not.

How many guesses are worth their rows is decided here, from what was measured. If guesses of a sequence come
true with probability p, then k of them give p + p^2 + ... + p^k tokens more, and a step of r rows takes T(r)
seconds. Counts are chosen to give the most tokens per second, and no sequence may lose more than `MAX_LOSS`
of the seconds that it has taken so far.

To watch and to decide takes time as well, some 0.1 ms a step, which is much beside the steps of a very small
model. So all that guessing takes is held against all that it gives: where it does not pay, it rests.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol
from weakref import WeakKeyDictionary

from mohist.engine.sequence import Chunk, Outcome, Sequence
from mohist.engine.step_times import StepTimes

__all__ = ["COUNTS", "Drafter", "Speculation", "Speculator"]

COUNTS = (1, 3, 7)
"""Guesses of one sequence in a step. Few sizes, so that each is soon known; kernels take rows by fours."""
MAX_ROWS = 64
"""Beyond this many rows a step no further row is cheap."""
MAX_LOSS = 0.03
"""Share of a sequence's time that guesses may have lost it, at any moment."""
MAX_LOSS_IN_ALL = 0.02
"""The same of all time together, with what it takes to watch."""
PATIENCE_S, PATIENCE_STEPS = 0.02, 16
"""What guessing may owe beyond that before it rests: the larger of so many seconds and so many steps."""
REST_LOSS = 0.01
"""Share of the time of a rest that makes up for what was lost before it."""
MOST_SAVED_S, MOST_SAVED_STEPS = 2.0, 100
"""Of what guessing saved, as much may be staked later, on drafters that have to read a prompt first."""
PRIOR_HITS, PRIOR_TRIES = 0.6, 1.0
"""What is believed of a sequence before anything was tried."""
FEW_ROWS = 12
"""A drafter that is no more rows behind than the guesses of one step and its own token is in step."""
FADE = 0.8
"""What a step of guesses leaves of the memory of earlier ones ..."""
FADE_IDLE = 0.98
"""... and a step without: after a while it is tried again."""


class Drafter(Protocol):
    """Guesses tokens."""

    def backlog(self, sequence: Sequence) -> int:
        """Rows that it has to compute before its first guess, beyond what it does for every guess."""
        ...

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome]) -> None:
        """What a step computed; its tokens are not appended yet."""
        ...

    def propose(self, sequences: Seq[Sequence], counts: Seq[int]) -> list[list[int]]:
        """At most `counts[i]` guesses of what follows `sequences[i].tokens`."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """The sequence has ended, or has given up its blocks."""
        ...

    def rest(self, rests: bool) -> None:
        """Whether, from the next step on, nothing is told and nothing asked until this is called again."""
        ...


class Speculation(Protocol):
    """What the engine asks about guesses."""

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        """Guesses for sequences that decode: at most `limits[i]` each, `spare` in all; or []."""
        ...

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        """What a step took and gave; its tokens are not appended yet."""
        ...

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter.forget`."""
        ...


@dataclass(slots=True)
class _Account:
    """What guessing has brought one sequence."""

    hits: float = 0.0
    tries: float = 0.0
    """Guesses that came true, and those of which it is known; both fade."""
    seconds: float = 0.0
    """Its share of all steps so far."""
    balance: float = 0.0
    """Seconds that guesses saved, less those that they took."""

    @property
    def rate(self) -> float:
        """The probability that a guess comes true, if all before it did."""
        return (self.hits + PRIOR_HITS) / (self.tries + PRIOR_TRIES)

    @property
    def credit(self) -> float:
        """Seconds that may be staked."""
        return self.balance + MAX_LOSS * self.seconds


class Speculator:
    """`Speculation` with one drafter that measures whether guesses pay."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float] = perf_counter) -> None:
        self._drafter, self._clock = drafter, clock
        self._accounts: WeakKeyDictionary[Sequence, _Account] = WeakKeyDictionary()
        self._times = StepTimes()
        self._draft_s = self._backlog_s = 0.0
        """Of a guess, lately, and of a row that the drafter was behind."""
        self._drafting_s = 0.0
        """Of the guesses of the step that comes."""
        self._reading_s = 0.0
        """What it last took to catch up: an investment, which is given time to come back."""
        self._debt_s = 0.0
        """What guessing took, less what it gave and `MAX_LOSS_IN_ALL` of all steps."""
        self._rests = False

    def guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        """See `Speculation`."""
        if self._rests:
            return []
        start = self._clock()
        guesses = self._guess(sequences, limits, spare)
        self._debt_s += self._clock() - start
        return guesses

    def observe(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        """See `Speculation`."""
        if self._rests:
            self._debt_s -= REST_LOSS * seconds
            if self._debt_s <= 0:
                self._set_rest(False)
            return
        start = self._clock()
        self._learn(chunks, outcomes, seconds)
        self._debt_s += self._clock() - start - MAX_LOSS_IN_ALL * seconds
        self._debt_s = max(self._debt_s, -max(MOST_SAVED_S, MOST_SAVED_STEPS * seconds))
        if self._debt_s > patience_s(seconds) + self._reading_s:
            self._set_rest(True)

    def forget(self, sequence: Sequence) -> None:
        """See `Drafter`."""
        self._drafter.forget(sequence)

    def _set_rest(self, rests: bool) -> None:
        self._rests = rests
        self._drafter.rest(rests)

    def _guess(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[list[int]]:
        self._drafting_s = 0.0
        counts = self._counts(sequences, limits, min(spare, MAX_ROWS - len(sequences)))
        if not any(counts):
            return []
        backlog = sum(self._drafter.backlog(s) for s, count in zip(sequences, counts, strict=True) if count)
        start = self._clock()
        guesses = self._drafter.propose(sequences, counts)
        self._drafting_s = self._clock() - start
        if backlog > FEW_ROWS * len(sequences):
            reading_s = max(0.0, self._drafting_s - sum(counts) * self._draft_s)
            self._backlog_s, self._reading_s = reading_s / backlog, reading_s
            self._drafting_s -= reading_s  # spent once, and no reason to stop now
        else:
            self._draft_s += 0.2 * (self._drafting_s / sum(counts) - self._draft_s)
        return guesses

    def _learn(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], seconds: float) -> None:
        self._drafter.observe(chunks, outcomes)
        num_rows = sum(chunk.num_rows for chunk in chunks)
        if num_rows == sum(chunk.num_draws for chunk in chunks):
            self._times.add(num_rows, seconds)
            self._settle(chunks, outcomes, num_rows)
        for chunk in chunks:
            self._account(chunk.sequence).seconds += seconds * chunk.num_rows / num_rows
        self._drafting_s = 0.0

    def _account(self, sequence: Sequence) -> _Account:
        account = self._accounts.get(sequence)
        if account is None:
            account = self._accounts[sequence] = _Account()
        return account

    def _counts(self, sequences: Seq[Sequence], limits: Seq[int], spare: int) -> list[int]:
        """How many guesses of each sequence give the most tokens per second."""
        counts = [0] * len(sequences)
        alone = self._times.of(len(sequences))
        if alone is None or spare < 1:
            return counts
        accounts = [self._account(sequence) for sequence in sequences]
        best, tokens, rows, chosen = len(sequences) / alone, float(len(sequences)), 0, 0
        raises = self._raises(accounts, limits)
        for number, (gain, _, lower, upper) in enumerate(raises, 1):
            rows += upper - lower
            if rows > spare:
                break
            tokens += gain
            seconds = self._seconds(len(sequences) + rows) + rows * self._draft_s
            if tokens / seconds > best:
                best, chosen = tokens / seconds, number
        for _, index, _, upper in raises[:chosen]:
            counts[index] = upper
        if chosen:
            self._stay_within_credit(sequences, accounts, counts, alone)
        return counts

    def _raises(self, accounts: Seq[_Account], limits: Seq[int]) -> list[tuple[float, int, int, int]]:
        """(tokens gained, sequence, from so many guesses, to so many), the most gain a guess first."""
        raises = []
        for index, (account, limit) in enumerate(zip(accounts, limits, strict=True)):
            lower, p = 0, account.rate
            for count in COUNTS:
                upper = min(count, limit)
                if upper > lower:
                    gain = sum(p**n for n in range(lower + 1, upper + 1))
                    raises.append((gain, index, lower, upper))
                    lower = upper
        # a sequence's own raises stay in order, since each gains less a guess than the one before
        return sorted(raises, key=lambda found: -found[0] / (found[3] - found[2]))

    def _stay_within_credit(
        self, sequences: Seq[Sequence], accounts: Seq[_Account], counts: list[int], alone: float
    ) -> None:
        """Lower counts whose rows would cost more than their sequence may lose, or all of them together."""
        seconds = self._times.at_most(len(counts) + sum(counts))
        assert seconds is not None
        each = (seconds - alone) / sum(counts) + self._draft_s
        spare_s = patience_s(alone) - self._debt_s
        for index, account in enumerate(accounts):
            if counts[index] and each > 0:
                affordable = int(max(account.credit, 0) / each)
                counts[index] = max((n for n in COUNTS if n <= min(affordable, counts[index])), default=0)
            backlog = self._drafter.backlog(sequences[index]) if counts[index] and self._backlog_s else 0
            if backlog > FEW_ROWS:
                spare_s -= backlog * self._backlog_s
                if spare_s < 0:
                    counts[index] = 0

    def _seconds(self, rows: int) -> float:
        seconds = self._times.of(rows)
        assert seconds is not None
        return seconds

    def _settle(self, chunks: Seq[Chunk], outcomes: Seq[Outcome], num_rows: int) -> None:
        """Book what the guesses of a decoding step took and gave."""
        num_guesses = num_rows - len(chunks)
        alone = self._times.of(len(chunks))
        if alone is None:
            return
        rows_s = self._seconds(num_rows) - alone
        each = (rows_s + self._drafting_s) / max(num_guesses, 1)
        self._debt_s += rows_s  # what drafting took is counted already
        for chunk, outcome in zip(chunks, outcomes, strict=True):
            account = self._account(chunk.sequence)
            fade = FADE if chunk.drafts else FADE_IDLE
            account.hits, account.tries = account.hits * fade, account.tries * fade
            if chunk.drafts:
                num_right = count_right(chunk.drafts, outcome)
                account.hits += num_right
                account.tries += min(num_right + 1, len(chunk.drafts))
                saved_s = num_right * alone / len(chunks)
                account.balance += saved_s - len(chunk.drafts) * each
                self._debt_s -= saved_s


def patience_s(step_s: float) -> float:
    """Seconds that guessing may owe, where a step takes so many."""
    return max(PATIENCE_S, PATIENCE_STEPS * step_s)


def count_right(drafts: Seq[int], outcome: Outcome) -> int:
    """How many guesses were drawn, up to the first that was not."""
    count = 0
    for guess, draw in zip(drafts, outcome.draws, strict=False):
        if guess != draw.token:
            break
        count += 1
    return count
