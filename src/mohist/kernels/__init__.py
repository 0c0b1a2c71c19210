"""The exact ops: C++ kernels, their scalar definition, their PyTorch twin, and training on top of either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mohist.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from mohist.kernels.ops import Ops

__all__ = ["LAW", "load_ops"]

LAW = 3
"""Version of the definitions in docs/numerics.md: another one may give other bits."""


def load_ops(*, threads: int | None = None, device: str | torch.device = "cpu") -> Ops:
    """The ops for a device: the C++ kernels on a CPU where they were built, else their PyTorch twin.

    `threads` defaults to the physical cores that this process may use; the twin leaves threads to PyTorch.
    Raises ConfigError for fewer than one thread.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads = {threads}: it must be at least 1; left out, it is the physical cores")
    import torch

    from mohist.kernels.abi import library_path
    from mohist.kernels.cores import physical_cores
    from mohist.kernels.native import NativeOps
    from mohist.kernels.twin import TorchOps

    path = library_path()
    if torch.device(device).type != "cpu" or path is None:
        return TorchOps(torch.device(device))
    return NativeOps(path, threads or physical_cores())
