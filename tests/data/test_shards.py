"""Token shards: written, mapped, cut into windows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mohist.data.shards import Shards, documents, write_shards
from mohist.errors import DataError


@pytest.mark.parametrize(("vocab_size", "itemsize"), [(65536, 2), (65537, 4)])
def test_round_trip(vocab_size: int, itemsize: int, tmp_path: Path) -> None:
    texts = [[1, 2, 3], [vocab_size - 1], [], [4, 5]]
    shards = write_shards(tmp_path, texts, vocab_size=vocab_size)
    assert shards.tokens.dtype.itemsize == itemsize
    assert shards.tokens.tolist() == [1, 2, 3, vocab_size - 1, 4, 5]
    assert shards.ends.tolist() == [3, 4, 4, 6]
    again = Shards(tmp_path)
    assert again.vocab_size == vocab_size
    assert [again.read(window) for window in again.windows(10)] == [(1, 2, 3), (4, 5)]


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=6), most=st.integers(1, 12))
def test_windows_predict_every_token_once(
    lengths: list[int], most: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if not any(lengths):
        lengths = [3]
    folder = tmp_path_factory.mktemp("shards")
    total = iter(range(1000))
    texts = [[next(total) for _ in range(length)] for length in lengths]
    shards = write_shards(folder, texts, vocab_size=1000)
    predicted = []
    for window in shards.windows(most):
        tokens = shards.read(window)
        assert 2 <= len(tokens) <= most + 1
        predicted += tokens[1:]
    assert predicted == [token for text in texts for token in text[1:]]


def test_documents_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("whole\nfile")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two", "other": 1}\n')
    assert list(documents([tmp_path / "a.txt", tmp_path / "b.jsonl"])) == ["whole\nfile", "one", "two"]
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    with pytest.raises(DataError, match=r"bad\.txt: not UTF-8 text, at byte 2"):
        list(documents([tmp_path / "bad.txt"]))
    with pytest.raises(DataError, match=r"none\.txt: cannot be read: No such file"):
        list(documents([tmp_path / "none.txt"]))


def test_unfinished_or_changed_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"index\.json is missing"):
        Shards(tmp_path)
    with pytest.raises(DataError, match="not a single token"):
        write_shards(tmp_path, [[], []], vocab_size=10)
    write_shards(tmp_path, [[1, 2, 3]], vocab_size=10)
    assert json.loads((tmp_path / "index.json").read_text())["num_tokens"] == 3
    with (tmp_path / "tokens.bin").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"tokens\.bin: holds 7 bytes, not 6"):
        Shards(tmp_path)


def test_windows_of_a_long_document_overlap_by_one(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [list(range(8))], vocab_size=10)
    assert shards.windows(3).tolist() == [[0, 4], [3, 7], [6, 8]]
