"""Answers to problems, sampled together and graded while the engine goes on.

    with Rollouts(llm, task.grade, params, num_samples=8) as rollouts:
        for problem in problems:
            rollouts.submit(problem, seed=seed_of(run_seed, step, problem.id))
        for group in rollouts:
            ...  # may submit further problems

All answers to a problem share its prompt in the engine's prefix cache. Groups come in the order in which
their problems were submitted, and what is in them depends on weights, problem, params and seed alone, never
on what ended first: so whoever decides by a group what to submit next decides the same in every run.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType

from mohist.cost import Cost, peak_memory_bytes
from mohist.engine.engine import FinishEvent
from mohist.errors import RunError
from mohist.llm import LLM
from mohist.types import Completion, Grade, Group, Message, Problem, Rollout, SamplingParams

__all__ = ["Rollouts", "cost_of", "seed_of"]

GRADERS = 4
"""Answers graded at once. Graders that take long have processes of their own; these threads wait for them."""

Grader = Callable[[Problem, Message], Grade]


def seed_of(*parts: int | str) -> int:
    """A sampling seed that is a function of `parts` (run seed, step, problem) and of nothing else."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def cost_of(llm: LLM, groups: Iterable[Group], *, seconds: float) -> Cost:
    """What it took to sample `groups` in `seconds`."""
    total = Cost(seconds=seconds, peak_bytes=peak_memory_bytes())
    for group in groups:
        for rollout in group.rollouts:
            total += Cost.of(rollout.completion.usage, flops=llm.flops(rollout.completion))
    return total


@dataclass(kw_only=True, slots=True)
class _Pending:
    """A group in the making: an entry of `ids` and of `rollouts` for every answer."""

    problem: Problem
    prompt: tuple[int, ...]
    ids: list[int]
    rollouts: dict[int, Future[Rollout]] = field(default_factory=dict)
    """By request id, those whose answer is there."""

    @property
    def complete(self) -> bool:
        return len(self.rollouts) == len(self.ids) and all(future.done() for future in self.rollouts.values())


class Rollouts:
    """Submit problems, iterate over their graded groups; use it as a context, whose end aborts what is left.

    `params.seed` is replaced by the seed of `submit`; without `stop_tokens`, those of the chat format count.
    `progress` is called with (answers ended, answers submitted) after every step of the engine. Once
    `stopping` says so, the iteration ends, with groups left over.
    """

    def __init__(
        self,
        llm: LLM,
        grade: Grader,
        params: SamplingParams,
        *,
        num_samples: int,
        thinking: bool | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._llm, self._grade = llm, grade
        self._params = params if params.stop_tokens else params.replace(stop_tokens=llm.chat.stop_tokens)
        self._num_samples, self._thinking = num_samples, thinking
        self._progress, self._stopping = progress, stopping
        self._pending: deque[_Pending] = deque()
        self._owners: dict[int, _Pending] = {}
        """By the ids of unfinished requests."""
        self._num_submitted = 0
        self._graders = ThreadPoolExecutor(GRADERS, thread_name_prefix="grader")

    def __enter__(self) -> Rollouts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for id in self._owners:
            self._llm.engine.abort(id)
        self._llm.engine.step()  # nobody wants the events of their end
        self._graders.shutdown(cancel_futures=True)

    def submit(self, problem: Problem, *, seed: int) -> None:
        """Line up the answers to one more problem. Raises ChatError or RequestError."""
        prompt = self._llm.render(problem.messages, self._thinking)
        params = self._params.replace(seed=seed)
        ids = self._llm.engine.submit(prompt, params, num_samples=self._num_samples)
        pending = _Pending(problem=problem, prompt=tuple(prompt), ids=ids)
        self._pending.append(pending)
        self._owners |= dict.fromkeys(ids, pending)
        self._num_submitted += len(ids)

    def __iter__(self) -> Iterator[Group]:
        """The groups, in order of submission. An error of the grader passes through."""
        while self._pending:
            head = self._pending[0]
            while self._owners and not head.complete:
                if self._stopping():
                    return
                self._step()
            self._pending.popleft()
            rollouts = tuple(head.rollouts[id].result() for id in head.ids)
            yield Group(problem=head.problem, prompt=head.prompt, rollouts=rollouts)

    def _step(self) -> None:
        """Let the engine compute one batch of rows, and have graded what ended in it."""
        for event in self._llm.engine.step():
            if isinstance(event, FinishEvent):
                owner = self._owners.pop(event.id)
                owner.rollouts[event.id] = self._graders.submit(
                    self._rollout, owner, owner.ids.index(event.id), event.completion
                )
        self._progress(self._num_submitted - len(self._owners), self._num_submitted)

    def _rollout(self, group: _Pending, sample: int, completion: Completion) -> Rollout:
        message = self._llm.chat.parse(completion.tokens, group.prompt)
        grade = self._grade(group.problem, message)
        if not math.isfinite(grade.reward):
            raise RunError(
                f"problem {group.problem.id!r}: the grader gave the reward {grade.reward}; "
                f"a reward is a finite number"
            )
        return Rollout(sample=sample, completion=completion, message=message, grade=grade)
