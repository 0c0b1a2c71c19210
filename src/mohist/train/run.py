"""A run on disk: what was asked, what happened, and where to go on from.

    NAME/config.toml         the resolved config
    NAME/metrics.jsonl       one object a step
    NAME/samples.jsonl       what was sampled, graded
    NAME/ledger.json         tokens, FLOPs, seconds, memory, money
    NAME/checkpoints/step-N  a Hugging Face model folder; in `training/`, what going on needs beside weights
    NAME/model               at the end, where the checkpoint is not the whole result: merged, averaged

A checkpoint appears whole or not at all. It knows how long the logs were, so going on from it cuts away what
was logged after it: killed at any moment, a run loses the steps since its last checkpoint and nothing else.
Whatever is drawn at random in a run is a function of (seed, step), so no generator's state is kept.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from mohist.config import dump_toml, load
from mohist.cost import Ledger, Prices
from mohist.errors import ConfigError, RunError
from mohist.train.ranks import ALONE, Ranks
from mohist.weights.files import read_json, sync_folder, write_whole

__all__ = ["Run", "RunConfig", "SavesItself"]

_LOGS = ("metrics.jsonl", "samples.jsonl")
_STATE, _TENSORS = Path("training/state.json"), Path("training/state.safetensors")
_FREE = frozenset(("run.save_every", "run.keep", "run.keep_every", "threads"))
"""Keys that may differ when a run goes on: no weight depends on them."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run is kept, and how much of it."""

    folder: Path
    """Made if it does not exist; must not hold another run."""
    save_every: int = 100
    """Steps between checkpoints; 0 for one at the end only."""
    keep: int = 2
    """Latest checkpoints to keep."""
    keep_every: int = 0
    """Checkpoints at multiples of so many steps are kept for good; 0 for none."""
    prices: Prices = dataclasses.field(default_factory=Prices)
    """What the machine costs, for the ledger."""

    def __post_init__(self) -> None:
        for name, least in (("save_every", 0), ("keep", 1), ("keep_every", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least {least}")


class SavesItself(Protocol):
    """A model, such as `TrainedModel`."""

    def save(self, folder: Path, /) -> None:
        """Write it and its tokenizer into a folder that exists."""
        ...


class Run:
    """An open run; one process at a time may hold it. Made by `Run.open`, held in a `with`."""

    def __init__(self, config: RunConfig, lock: int | None, state: dict[str, Any] | None) -> None:
        """Without a lock, a run that reads and never writes: what other ranks than the first get."""
        self.config, self.folder = config, config.folder
        self.ledger = Ledger.from_json(json.dumps(state["ledger"])) if state else Ledger()
        self.step = int(state["step"]) if state else 0
        """Steps done by the checkpoint that this run goes on from; 0 for a new one."""
        self._lock = lock
        self._loop: dict[str, Any] = state["loop"] if state else {}
        sizes = state["logs"] if state else dict.fromkeys(_LOGS, 0)
        self._logs: dict[str, int] = {}
        if lock is not None:
            self._logs = {name: _cut(self.folder / name, int(sizes[name])) for name in _LOGS}

    @classmethod
    def open(cls, config: Any, run: RunConfig, *, resume: bool = False, ranks: Ranks = ALONE) -> Run:
        """Begin a run of `config`, which has `run` in it, or go on from its latest checkpoint.

        With `resume`, a folder without a checkpoint (or without anything) begins anew. Raises RunError, when
        the folder holds a run and `resume` is not set, another process has it, or the config differs in a
        key that weights depend on.
        """
        opened = cls._open_first(config, run, resume) if ranks.rank == 0 else None
        ranks.gather(None)  # the others wait until the first has swept
        return opened or cls(run, None, _state_of_latest(run.folder))

    @classmethod
    def _open_first(cls, config: Any, run: RunConfig, resume: bool) -> Run:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(run.folder)
        try:
            path = run.folder / "config.toml"
            if path.exists():
                if not resume:
                    raise RunError(
                        f"{run.folder}: holds a run already; add --resume to go on with it, or choose "
                        "another --run.folder"
                    )
                _check_same(config, load(type(config), path=path), path)
            _write(path, dump_toml(config))
            _sweep(run.folder / "checkpoints")
            return cls(run, lock, _state_of_latest(run.folder))
        except BaseException:
            os.close(lock)
            raise

    @property
    def writes(self) -> bool:
        """Whether this process writes to the folder; of several ranks, the first does."""
        return self._lock is not None

    @property
    def checkpoint(self) -> Path | None:
        """The folder of the checkpoint that this run goes on from; None for a new run."""
        return self.checkpoint_at(self.step) if self.step else None

    def restore(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Training state and the loop's own state in `checkpoint`."""
        assert self.checkpoint is not None
        return load_file(self.checkpoint / _TENSORS), self._loop

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl. What is logged after `save` belongs to later steps."""
        self._append("metrics.jsonl", [{"step": step, **metrics}])

    def log_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append a line for every row to samples.jsonl."""
        self._append("samples.jsonl", ({"step": step, **row} for row in rows))

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved after this step."""
        return self.config.save_every > 0 and step % self.config.save_every == 0

    def save(
        self,
        step: int,
        model: SavesItself,
        state: Mapping[str, Tensor],
        loop: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the checkpoint after `step` steps: model, `Learner.state`, the loop's own state (JSON data).

        Older ones are pruned. A checkpoint of this step that exists stays as it is.
        """
        folder = self.checkpoint_at(step)
        if folder.exists() or not self.writes:
            return folder
        for file in self._logs.values():
            os.fsync(file)
        temporary = folder.with_name(f".{folder.name}")
        (temporary / "training").mkdir(parents=True)
        model.save(temporary)
        save_file({name: value.contiguous() for name, value in state.items()}, temporary / _TENSORS)
        summary = {
            "step": step,
            "loop": dict(loop or {}),
            "logs": {name: os.fstat(file).st_size for name, file in self._logs.items()},
            "ledger": json.loads(self.ledger.to_json(self.config.prices)),
        }
        _write(temporary / _STATE, json.dumps(summary, indent=2))
        _sync(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
        self.write_ledger()
        self._prune(step)
        return folder

    def money(self) -> str:
        """What the run has cost so far, for people; empty where nothing is charged."""
        money = self.ledger.total.money(self.config.prices)
        return f"{money:.3g} {self.config.prices.currency}" if money else ""

    def write_ledger(self) -> None:
        """Bring ledger.json up to date."""
        if self.writes:
            _write(self.folder / "ledger.json", self.ledger.to_json(self.config.prices) + "\n")

    def export(self, save: Callable[[Path], None]) -> Path:
        """Let `save` fill the folder `model`, which appears whole, in place of one that is there."""
        folder, temporary = self.folder / "model", self.folder / ".model"
        if self.writes:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            save(temporary)
            _sync(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
            sync_folder(self.folder)
        return folder

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Let other processes have the folder."""
        for file in (*self._logs.values(), self._lock):
            if file is not None:
                os.close(file)

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        if not self.writes:
            return
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        data = memoryview(text.encode())
        while data:
            data = data[os.write(self._logs[name], data) :]

    def checkpoint_at(self, step: int) -> Path:
        """Where the checkpoint after so many steps is, or would be."""
        return self.folder / "checkpoints" / f"step-{step}"

    def _prune(self, step: int) -> None:
        every = self.config.keep_every
        steps = sorted(_steps(self.folder))
        for old in steps[: -self.config.keep]:
            if old != step and not (every and old % every == 0):
                hidden = self.checkpoint_at(old).with_name(f".step-{old}")
                self.checkpoint_at(old).rename(hidden)
                shutil.rmtree(hidden)


def _lock(folder: Path) -> int:
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise RunError(f"{folder}: another process is running this run; end it first") from error
    return lock


def _cut(path: Path, size: int) -> int:
    """Open a log for appending, without what follows the first `size` bytes."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if os.fstat(file).st_size < size:
        os.close(file)
        raise RunError(f"{path}: is shorter than when the checkpoint was saved; put the file back")
    os.ftruncate(file, size)
    return file


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return [int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal()]


def _state_of_latest(folder: Path) -> dict[str, Any] | None:
    steps = _steps(folder)
    if not steps:
        return None
    return read_json(folder / "checkpoints" / f"step-{max(steps)}" / _STATE, max_bytes=1 << 30)


def _sweep(checkpoints: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    checkpoints.mkdir(exist_ok=True)
    for leftover in checkpoints.glob(".step-*"):
        shutil.rmtree(leftover)


def _sync(folder: Path) -> None:
    """Bring every file below a folder to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync_folder(path)


def _write(path: Path, text: str) -> None:
    with write_whole(path) as file:
        file.write(text.encode())


def _check_same(now: Any, before: Any, path: Path) -> None:
    changed = [
        f"{key}: {was!r} then, {is_!r} now"
        for (key, is_), (_, was) in zip(_flat(now), _flat(before), strict=True)
        if is_ != was and key not in _FREE and not key.startswith("run.prices.")
    ]
    if changed:
        raise RunError(
            f"{path}: the run was begun with another config; change it back, or begin a new run in another "
            "--run.folder:\n  " + "\n  ".join(changed)
        )


def _flat(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every value by its dotted key. Sections that can be none count as one value."""
    found: list[tuple[str, Any]] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain = not dataclasses.is_dataclass(value) or "None" in str(field.type)
        found += [(prefix + field.name, value)] if plain else _flat(value, f"{prefix}{field.name}.")
    return found
