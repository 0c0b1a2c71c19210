"""These tests are about the C++ kernels: the PyTorch twin keeps no order of summation."""

from __future__ import annotations

from collections.abc import Generator

import pytest
import torch

from mohist.kernels.abi import library_path


@pytest.fixture(autouse=True, scope="session")
def kernels() -> Generator[None]:
    if library_path() is None:
        pytest.skip("the C++ kernels were not built, and nothing else promises equal bits")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what PyTorch does here is tiny; its threads would only wait for each other
    yield
    torch.set_num_threads(threads)
