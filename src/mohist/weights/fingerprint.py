"""A name for the content of a model's files: equal ones hold equal models, wherever they lie."""

from __future__ import annotations

from hashlib import blake2b, file_digest
from pathlib import Path

from mohist.errors import SourceError

__all__ = ["content_hash"]

_SUFFIXES = (".safetensors", ".gguf", ".json", ".jinja", ".model")
"""What decides a model's answers: weights, config, tokenizer, chat template."""


def content_hash(path: Path) -> str:
    """32 hexadecimal digits for the model at `path`, a file or a folder. Reads all of it.

    Raises SourceError where there is nothing of a model.
    """
    files = [path] if path.is_file() else sorted(one for one in path.glob("*") if one.suffix in _SUFFIXES)
    if not files:
        raise SourceError(f"{path}: there is no file of a model here")
    whole = blake2b(digest_size=16)
    for file in files:
        with file.open("rb") as opened:
            own = file_digest(opened, lambda: blake2b(digest_size=32)).digest()
        # The name of a single file says nothing: the same file is found under many.
        whole.update((b"" if path.is_file() else file.name.encode()) + b"\0" + own)
    return whole.hexdigest()
