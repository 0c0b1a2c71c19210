"""Whole models by the scalar definition, and by the kernels of every instruction set: the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mohist.engine.engine import EngineConfig
from mohist.kernels.abi import library_path
from mohist.kernels.native import NativeOps
from mohist.types import Request, SamplingParams
from tests.exact.models import CONFIGS, MODELS, Model, decoder, engine, load, ops
from tests.exact.requests import PARAMS, SHARED, alone, content


@pytest.mark.parametrize("model", MODELS, ids=str)
@given(length=st.integers(1, 30), params=PARAMS)
@settings(max_examples=3)
def test_scalar_definition(model: Model, length: int, params: SamplingParams) -> None:
    request = Request(prompt=SHARED[-length:], params=params.replace(max_tokens=min(params.max_tokens, 4)))
    limits = EngineConfig(max_running=1, max_step_tokens=9)
    slow = engine(decoder(model, definition=True), block_size=32, config=limits)
    assert content(slow.generate([request])[0]) == content(alone(model, request))


def libraries(folder: Path) -> list[Path]:
    """The kernels that were built and that this processor can run; `folder` is scratch space."""
    best = library_path()
    if best is None:
        return []
    runnable = []
    for path in sorted(best.parent.glob("libmohist_*.so")):
        place = folder / path.stem
        place.mkdir()
        (place / path.name).symlink_to(path)
        if library_path(place) is not None:
            runnable.append(path)
    return runnable


def test_instruction_sets(tmp_path: Path) -> None:
    paths = libraries(tmp_path)
    if len(paths) < 2:
        pytest.skip(f"only {len(paths)} of the kernels' builds runs here")
    request = Request(prompt=SHARED[:40], params=SamplingParams(max_tokens=12, top_p=0.95, top_logprobs=3))
    for name in CONFIGS:
        for model in (m for m in MODELS if m.name == name):
            for path in paths:
                other = engine(load(model, NativeOps(path, 2))).generate([request])[0]
                assert content(other) == content(alone(model, request)), (model, path.name)


@pytest.mark.parametrize("threads", [3, 5])
def test_more_threads_than_cores(threads: int) -> None:
    many = ops(threads)
    for name in CONFIGS:
        model = Model(name, "mixed")
        request = Request(prompt=SHARED[:70], params=SamplingParams(max_tokens=8))
        assert content(engine(load(model, many)).generate([request])[0]) == content(alone(model, request))
