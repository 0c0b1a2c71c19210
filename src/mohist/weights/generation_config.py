"""How a model's makers sample from it: `generation_config.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mohist.errors import ConfigError, RequestError
from mohist.types import SamplingParams

__all__ = ["recommended_sampling"]

_DEFAULT = SamplingParams(max_tokens=1024, temperature=0.6, top_p=0.95)
"""How models that reason are usually sampled; a model's own generation_config.json goes before it."""


def recommended_sampling(path: Path) -> SamplingParams:
    """The sampling that the model's own generation_config.json recommends, over Mohist's defaults."""
    file = path / "generation_config.json"
    if not file.is_file():
        return _DEFAULT
    try:
        config: Any = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a JSON file: {error}") from error
    if not isinstance(config, dict) or config.get("do_sample") is not True:
        return _DEFAULT
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    try:
        return _DEFAULT.replace(**{name: config[name] for name in names if config.get(name) is not None})
    except (RequestError, TypeError) as error:
        raise ConfigError(f"{file}: {error}") from error
