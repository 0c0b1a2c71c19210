"""The optimiser: AdamW (PyTorch's) or Muon, learning-rate schedules, clipping, an average of weights.

Everything here runs on one thread: PyTorch's sums and vector tails depend on how many threads share them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mohist.errors import ConfigError, RunError
from mohist.kernels.threads import one_thread
from mohist.model.decoder import Decoder
from mohist.model.tensors import Matrix
from mohist.train.muon import Muon

__all__ = ["OptimConfig", "Optimizer", "learning_rate"]


_STATE_KEYS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")
"""What the optimisers remember of a tensor."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How gradients change weights."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon takes matrices, slice by slice; embedding, head, routers and vectors stay with AdamW."""
    lr: float = 3e-4
    """Peak learning rate. Muon's is scaled so that one value suits both (arXiv 2502.16982, section 2.2)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the mean and of the mean square of gradients, a step."""
    eps: float = 1e-8
    """AdamW's, beside the root of the mean square."""
    momentum: float = 0.95
    """Muon's, a step."""
    weight_decay: float = 0.1
    """Of matrices, a step, times the learning rate; vectors do not decay."""
    clip_norm: float = 1.0
    """Gradients whose norm, all together, is larger are scaled down to it; 0 never."""
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    """After the warm-up: flat, a half cosine or a line down to the end, or flat and then a line."""
    warmup_steps: int = 0
    """Steps in which the rate rises in a line from 0."""
    decay_steps: int = 0
    """Steps of the line at the end of "wsd"."""
    final_lr: float = 0.0
    """Where a schedule ends, as a fraction of `lr`."""
    ema: float = 0.0
    """Decay, a step, of the exponential average of weights; 0 for none."""

    def __post_init__(self) -> None:
        checks = (
            ("lr", self.lr >= 0, "at least 0"),
            ("betas", all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"),
            ("eps", self.eps > 0, "over 0"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip_norm", self.clip_norm >= 0, "at least 0"),
            ("warmup_steps", self.warmup_steps >= 0, "at least 0"),
            ("decay_steps", self.decay_steps >= 0, "at least 0"),
            ("final_lr", 0 <= self.final_lr <= 1, "in [0, 1]"),
            ("ema", 0 <= self.ema < 1, "in [0, 1)"),
        )
        for name, ok, expected in checks:
            if not ok:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be {expected}")


def learning_rate(config: OptimConfig, step: int, total_steps: int) -> float:
    """The rate of step `step`, counted from 0, of `total_steps`."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    match config.schedule:
        case "constant":
            return config.lr
        case "wsd":
            start = max(total_steps - config.decay_steps, config.warmup_steps)
        case _:
            start = config.warmup_steps
    done = min(max(step - start, 0) / max(total_steps - start, 1), 1.0)
    left = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.lr * (config.final_lr + (1 - config.final_lr) * left)


class Optimizer:
    """Steps a decoder's trainable tensors by their gradients."""

    def __init__(self, decoder: Decoder, config: OptimConfig, *, total_steps: int) -> None:
        self.config, self.total_steps = config, total_steps
        self.step_count = 0
        self.parameters = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
        """The trained tensors by name."""
        if not self.parameters:
            raise ConfigError("the model has no trainable tensor: load it with trainable=True, or add LoRA")
        matrices = _matrices(decoder) if config.optimizer == "muon" else {}
        if config.optimizer == "muon" and not matrices:
            raise ConfigError(
                "optimizer = 'muon': it trains whole matrices, and here (LoRA) are none; use adamw"
            )
        rest = {name: p for name, p in self.parameters.items() if name not in matrices}
        self._groups: list[tuple[torch.optim.Optimizer, dict[str, Tensor]]] = []
        if rest:
            self._groups.append((_adamw(config, rest), dict(rest)))
        if matrices:
            self._groups.append((_muon(config, matrices), matrices))
        start = self.parameters if config.ema else {}
        self.average = {name: parameter.detach().clone() for name, parameter in start.items()}
        """The exponential average of the weights; empty without `ema`."""

    def step(self) -> dict[str, float]:
        """Clip, step and clear the gradients. Returns the learning rate and the norm before clipping.

        Raises RunError, with nothing changed, when there is no gradient or one is not finite.
        """
        rate = learning_rate(self.config, self.step_count, self.total_steps)
        with torch.no_grad(), one_thread():
            norm = self._clip()
            for optimizer, named in self._groups:
                for group in optimizer.param_groups:
                    group["lr"] = rate
                optimizer.step()
                # fused AdamW does not count its changes, by which matrices know that they must be packed anew
                torch.autograd.graph.increment_version(list(named.values()))
            for parameter in self.parameters.values():
                parameter.grad = None
            for name, mean in self.average.items():
                mean.lerp_(self.parameters[name], 1 - self.config.ema)
        self.step_count += 1
        return {"lr": rate, "grad_norm": norm}

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on beside weights and `step_count`, by name."""
        found = {f"average/{name}": mean for name, mean in self.average.items()}
        for optimizer, named in self._groups:
            for name, tensor in named.items():
                for key, value in optimizer.state.get(tensor, {}).items():
                    found[f"{key}/{name}"] = value
        return found

    def load_state(self, tensors: Mapping[str, Tensor], step_count: int) -> None:
        """Go on from what `state` gave. Raises RunError, when it is not this optimiser's."""
        left = dict(tensors)
        for name, mean in self.average.items():
            if f"average/{name}" not in left:
                raise RunError(f"the state of the optimiser has no average of {name}: was ema changed?")
            mean.copy_(left.pop(f"average/{name}"))
        for optimizer, named in self._groups:
            for name, tensor in named.items():
                present = [key for key in _STATE_KEYS if f"{key}/{name}" in left]
                state = {key: left.pop(f"{key}/{name}").clone() for key in present}
                if any(value.dim() and value.shape != tensor.shape for value in state.values()):
                    raise RunError(f"the state of the optimiser is for {name} of another shape")
                optimizer.state[tensor] = state
        if left:
            raise RunError(f"the state of the optimiser has {min(left)}, which this one has no place for")
        self.step_count = step_count

    @contextlib.contextmanager
    def averaged(self) -> Generator[None]:
        """Inside, the weights are their average, where there is one."""
        current = {name: self.parameters[name].detach().clone() for name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(current)

    @torch.no_grad()
    def _put(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.parameters[name].copy_(tensor)

    def _clip(self) -> float:
        """Scale the gradients down to `clip_norm`; the norm that they had."""
        found = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if not found:
            raise RunError("optim_step without a gradient: call forward_backward with a batch first")
        norm = float(nn.utils.get_total_norm(found.values()))
        if not math.isfinite(norm):
            bad = next((name for name, g in found.items() if not g.isfinite().all()), "the model as a whole")
            raise RunError(
                f"step {self.step_count}: the gradient of {bad} is not finite: lower the learning "
                "rate, or look for extreme rewards or weights"
            )
        if self.config.clip_norm and norm > self.config.clip_norm:
            for gradient in found.values():
                gradient.mul_(self.config.clip_norm / norm)
        return norm


def _matrices(decoder: Decoder) -> dict[str, Tensor]:
    """The trained matrices that Muon is for: those between hidden states."""
    return {
        f"{name}.parameter": module.parameter
        for name, module in decoder.tensors().items()
        if isinstance(module, Matrix)
        and module.parameter is not None
        and name not in ("embed", "head")
        and not name.endswith(".router")
    }


def _adamw(config: OptimConfig, named: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    matrices = [tensor for tensor in named.values() if tensor.dim() > 1]
    vectors = [tensor for tensor in named.values() if tensor.dim() <= 1]
    groups = [
        {"params": tensors, "weight_decay": decay}
        for tensors, decay in ((matrices, config.weight_decay), (vectors, 0.0))
        if tensors
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def _muon(config: OptimConfig, matrices: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    return Muon(matrices.values(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
