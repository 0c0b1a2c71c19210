"""What every test gets: one OpenMP thread per worker and hypothesis runs that repeat."""

from __future__ import annotations

import os
import signal

# PyTorch reads this when it is first imported. Workers of pytest-xdist would fight over the cores otherwise.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

settings.register_profile(
    "mohist",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("mohist")

# Started in the background, a process ignores Ctrl-C and so do its children; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
