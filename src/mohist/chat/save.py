"""A model's tokenizer and template as files that Hugging Face's libraries read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mohist.chat.chat import Chat

__all__ = ["save_chat"]

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def save_chat(chat: Chat, folder: Path, *, source: Path | None = None) -> None:
    """Write the tokenizer's files into `folder`: copies of those in `source`, if it is a folder with some.

    Otherwise, as for models from a GGUF file, they are made from `chat`.
    """
    if source is not None and (source / "tokenizer.json").is_file():
        for name in _FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        return
    tokenizer = chat.tokenizer
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": tokenizer.adds_bos,
        **tokenizer.names,
    }
    _write(folder / "tokenizer_config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": list(chat.stop_tokens)})
    if "default" in tokenizer.templates:
        (folder / "chat_template.jinja").write_text(tokenizer.templates["default"], encoding="utf-8")


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
