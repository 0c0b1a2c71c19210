"""The logs of a run, read without PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mohist.errors import RunError

__all__ = ["read_metrics"]


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that is being written is left out. Raises RunError."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder}: not a run's folder: metrics.jsonl: {error.strerror}") from error
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
