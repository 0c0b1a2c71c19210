"""TRL's trainers, one step at a time. Imported in its own process only."""

from __future__ import annotations

import tempfile
from time import perf_counter
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList, TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from bench.rl_steps import LR, MOST_STEPS, Steps
from bench.rl_work import (
    GROUP_SIZE,
    PROBLEMS,
    SFT_SAMPLES,
    SFT_TOKENS,
    RlWorkload,
    lengths,
    question,
    reward,
    sft_tokens,
    single_token_words,
)

__all__ = ["Grpo", "Sft"]

MICRO_BATCH = 8
"""Answers that TRL trains on at once: all 64 of SmolLM2's would need tens of gigabytes of logits."""


class Bounded(Steps):
    """A trainer that waits before its steps and times them."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        torch.set_num_threads(threads)
        logging.disable_progress_bar()
        self.generation_s = self._start = 0.0

    def on_step_begin(self) -> None:
        """Wait, then start the clock."""
        self.wait()
        self.generation_s, self._start = 0.0, perf_counter()

    def on_step_end(self) -> None:
        """Stop the clock."""
        self.done(perf_counter() - self._start, self.generation_s)

    @staticmethod
    def common() -> dict[str, Any]:
        """Settings of every trainer: float32, AdamW, no logs, no checkpoints.

        Without gradient checkpointing, which is on by default and would only slow it down.
        """
        return {
            "output_dir": tempfile.mkdtemp(),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "learning_rate": LR,
            "lr_scheduler_type": "constant",
            "weight_decay": 0.0,
            "max_steps": MOST_STEPS,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }


class Grpo(Bounded):
    """A logits processor allows the end of an answer only where it is due, and nothing else there."""

    def __init__(self, folder: str, work: RlWorkload, threads: int) -> None:
        super().__init__(threads)
        self._work, self._step = work, -1
        words = single_token_words(folder)
        questions = [question(words, work, i) for i in range(PROBLEMS * 64)]
        config = GRPOConfig(
            **self.common(),
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=PROBLEMS * GROUP_SIZE // MICRO_BATCH,
            num_generations=GROUP_SIZE,
            max_completion_length=work.limit,
            loss_type="grpo",
            beta=0.0,
            shuffle_dataset=False,
        )
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._end = tokenizer.eos_token_id
        self._generate = model.generate
        model.generate = self._timed_generate
        trainer: Any = GRPOTrainer(
            model=model,
            args=config,
            reward_funcs=self._rewards,
            train_dataset=Dataset.from_dict({"prompt": questions}),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[_Bounds(self)],
        )
        self.begin(trainer.train)

    def on_step_begin(self) -> None:
        """See `Bounded`."""
        super().on_step_begin()
        self._step += 1

    def _timed_generate(self, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        forced = LogitsProcessorList([self._forcing(kwargs["input_ids"].shape[1])])
        found = self._generate(*args, **kwargs, logits_processor=forced)
        self.generation_s += perf_counter() - start
        return found

    def _forcing(self, prompt_tokens: int) -> Any:
        """Forbids the end before an answer is as long as it should be, and allows nothing else then."""
        last = torch.tensor(lengths(self._work, self._step)) - 1

        def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            ends = last == ids.shape[1] - prompt_tokens
            scores[:, self._end] = torch.where(ends, 0.0, -torch.inf)
            scores[ends] = -torch.inf
            scores[ends, self._end] = 0.0
            return scores

        return process

    def _rewards(self, completions: list[Any], **_: Any) -> list[float | None]:
        first = self._step * PROBLEMS
        return [reward(self._work, first + i // GROUP_SIZE, i % GROUP_SIZE) for i in range(len(completions))]


class Sft(Bounded):
    """All samples are of a length, so there is nothing to pad and nothing to pack."""

    def __init__(self, folder: str, threads: int) -> None:
        super().__init__(threads)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        samples = [sft_tokens(model.config.vocab_size, i) for i in range(SFT_SAMPLES * 64)]
        config = SFTConfig(
            **self.common(),
            per_device_train_batch_size=MICRO_BATCH,
            gradient_accumulation_steps=SFT_SAMPLES // MICRO_BATCH,
            max_length=SFT_TOKENS,
        )
        trainer: Any = SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict({"input_ids": samples}),
            processing_class=AutoTokenizer.from_pretrained(folder),
            callbacks=[_Bounds(self)],
        )
        self.begin(trainer.train)


class _Bounds(TrainerCallback):
    """Tells where steps begin and end."""

    def __init__(self, steps: Bounded) -> None:
        self._steps = steps

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._steps.on_step_begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._steps.on_step_end()
