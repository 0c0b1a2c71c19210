"""Tokenizers that did not come from a folder, written as one and read again."""

from __future__ import annotations

from pathlib import Path

from mohist.chat.chat import Chat, load_chat
from mohist.chat.save import save_chat


def test_what_is_written_reads_back(chat: Chat, tmp_path: Path) -> None:
    save_chat(chat, tmp_path)
    again = load_chat(tmp_path)
    messages = [{"role": "user", "content": "hello <think> ü"}]
    template = chat.template.source
    assert Chat(again.tokenizer, template=template).render(messages) == chat.render(messages)
    assert again.stop_tokens == chat.stop_tokens
    assert again.tokenizer.markup == chat.tokenizer.markup
    assert again.tokenizer.templates == chat.tokenizer.templates
    assert again.tokenizer.adds_bos == chat.tokenizer.adds_bos


def test_files_are_copied_where_there_are_some(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    save_chat(chat, tmp_path / "a")
    (tmp_path / "a/tokenizer_config.json").write_text('{"mine": 1}')
    (tmp_path / "a/README.md").write_text("not a tokenizer's file")
    save_chat(chat, tmp_path / "b", source=tmp_path / "a")
    assert (tmp_path / "b/tokenizer_config.json").read_text() == '{"mine": 1}'
    assert not (tmp_path / "b/README.md").exists()
