"""Token shards: documents as token ids, one after another in one file, read through memory maps.

A folder holds `tokens.bin` (uint16 or uint32, little-endian), `ends.bin` (int64: where each document ends)
and `index.json`, which is written last: a folder without it is not finished. It may be larger than memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mohist.data.jsonl import read_rows
from mohist.errors import DataError

__all__ = ["Shards", "documents", "write_shards"]

_INDEX = "index.json"


class Shards:
    """An opened folder of tokens."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError, when the folder is not one, is unfinished, or its files do not fit its index."""
        index = _read_index(folder)
        dtype = np.dtype(index["dtype"])
        self.folder, self.vocab_size = folder, int(index["vocab_size"])
        self.tokens = _map(folder / "tokens.bin", dtype, int(index["num_tokens"]))
        """Every token (uint16 or uint32)."""
        self.ends = _map(folder / "ends.bin", np.dtype("<i8"), int(index["num_documents"]))
        """Where each document ends in `tokens` (int64)."""

    def windows(self, max_tokens: int) -> np.ndarray:
        """Every document as (start, end) in `tokens`, [W, 2] int64; long ones in parts.

        A part has at most `max_tokens` + 1 tokens.
        Parts overlap by a token, the last of one being the first of the next, so that every token but a
        document's first is predicted once, from at most `max_tokens` tokens before it. Documents of a
        single token are left out.
        """
        ends = np.asarray(self.ends)
        starts = np.concatenate(([0], ends[:-1]))
        counts = np.maximum(-(-(ends - starts - 1) // max_tokens), 0)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        first = np.repeat(starts, counts) + max_tokens * (np.arange(counts.sum()) - before)
        return np.stack((first, np.minimum(first + max_tokens + 1, np.repeat(ends, counts))), axis=1)

    def read(self, window: np.ndarray) -> tuple[int, ...]:
        """The tokens of one window."""
        start, end = window.tolist()
        return tuple(self.tokens[start:end].tolist())


def documents(paths: Iterable[Path]) -> Iterator[str]:
    """Texts: a .jsonl file has one in "text" of every row, any other file is one. Raises DataError."""
    for path in paths:
        if path.suffix == ".jsonl":
            yield from read_rows(path, _text)
        else:
            yield _whole(path)


def write_shards(folder: Path, documents: Iterable[list[int]], *, vocab_size: int) -> Shards:
    """Write documents, which are token ids under `vocab_size`. An unfinished folder is begun anew."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    end = num_documents = 0
    with (folder / "tokens.bin").open("wb") as tokens_file, (folder / "ends.bin").open("wb") as ends_file:
        for tokens in documents:
            end += len(tokens)
            num_documents += 1
            tokens_file.write(np.asarray(tokens, dtype=dtype).tobytes())
            ends_file.write(np.asarray([end], dtype="<i8").tobytes())
        for file in (tokens_file, ends_file):
            file.flush()
            os.fsync(file.fileno())
    if end == 0:
        raise DataError(f"{folder}: there is not a single token in the documents")
    index = {
        "dtype": dtype.str,
        "vocab_size": vocab_size,
        "num_tokens": end,
        "num_documents": num_documents,
    }
    temporary = folder / f".{_INDEX}"
    temporary.write_text(json.dumps(index, indent=2) + "\n")
    temporary.replace(folder / _INDEX)
    return Shards(folder)


def _text(row: dict[str, Any]) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise ValueError(f'needs "text", a string; its keys are {", ".join(row) or "none"}')
    return text


def _whole(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text, at byte {error.start}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / _INDEX
    if not path.is_file():
        raise DataError(f"{folder}: no token shards ({_INDEX} is missing); write them anew")
    return json.loads(path.read_text())


def _map(path: Path, dtype: np.dtype[Any], count: int) -> np.ndarray:
    if path.stat().st_size != count * dtype.itemsize:
        raise DataError(
            f"{path}: holds {path.stat().st_size} bytes, not {count * dtype.itemsize}; write it anew"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,))
