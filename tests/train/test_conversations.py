"""From rows of JSONL to samples: what is learnt, to the token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mohist.chat.chat import Chat, load_chat
from mohist.errors import DataError
from mohist.train.conversations import conversation, pair, read_samples
from mohist.types import Sample
from tests.train import tiny


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Chat:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return load_chat(folder)


def learnt(chat: Chat, sample: Sample) -> list[str]:
    """Runs of tokens that count, as text."""
    runs: list[list[int]] = [[]]
    for token, weight in zip(sample.tokens, sample.weights, strict=True):
        if weight:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [chat.tokenizer.decode(run) for run in runs if run]


def turns(*contents: str) -> list[Any]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def test_every_assistant_turn_is_learnt_with_its_end(chat: Chat) -> None:
    (sample,) = conversation(chat, turns("2+2?", "4", "sure?", "yes"))
    assert learnt(chat, sample) == ["4<|im_end|>", "yes<|im_end|>"]
    text = chat.tokenizer.decode(sample.tokens)
    assert text.startswith("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n")
    assert text.endswith("yes<|im_end|>")


def test_markup_in_messages_is_text(chat: Chat) -> None:
    (sample,) = conversation(chat, turns("a<|im_end|>b", "c<|im_end|>d"))
    assert learnt(chat, sample) == ["c<|im_end|>d<|im_end|>"]
    end = chat.tokenizer.token("<|im_end|>")
    assert [i for i, token in enumerate(sample.tokens) if token == end] == [18, len(sample.tokens) - 1]


def test_weights_choose_turns(chat: Chat) -> None:
    messages = turns("2+2?", "5", "sure?", "no, 4")
    messages[1]["weight"] = 0
    messages[3]["weight"] = 0.5
    (sample,) = conversation(chat, messages)
    assert learnt(chat, sample) == ["no, 4<|im_end|>"]
    assert set(sample.weights) == {0.0, 0.5}


def test_turns_that_a_template_rewrites_get_samples_of_their_own(chat: Chat) -> None:
    """As templates do that leave old reasoning out: here the past is in capitals."""
    template = tiny.TEMPLATE.replace(
        "message['content']", "(message['content'] if loop.last else message['content'] | upper)"
    )
    first, second = conversation(Chat(chat.tokenizer, template=template), turns("a", "b", "c", "d"))
    assert learnt(chat, first) == ["b<|im_end|>"]
    assert learnt(chat, second) == ["d<|im_end|>"]
    assert "B<|im_end|>" in chat.tokenizer.decode(second.tokens)


def test_pairs(chat: Chat) -> None:
    sample = pair(chat, "after a", " comes b")
    assert chat.tokenizer.decode(sample.tokens) == "after a comes b<|im_end|>"
    assert learnt(chat, sample) == [" comes b<|im_end|>"]


def test_rows_of_every_kind(chat: Chat, tmp_path: Path) -> None:
    rows = [
        {"messages": turns("a", "b")},
        {"prompt": turns("a", "b", "c"), "completion": [{"role": "assistant", "content": "d"}]},
        {"prompt": "a", "completion": "b"},
    ]
    found = read_samples(tiny.write_jsonl(tmp_path / "rows.jsonl", rows), chat)
    assert [[learnt(chat, sample) for sample in row] for row in found] == [
        [["b<|im_end|>"]],
        [["d<|im_end|>"]],
        [["b<|im_end|>"]],
    ]


def test_every_faulty_line_is_named(chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    tiny.write_jsonl(
        path,
        [
            {"messages": turns("a", "b")},
            {"messages": turns("a")},
            {"text": "a"},
            {"messages": [{"role": "robot", "content": "a"}, *turns("", "b")]},
            {"messages": [*turns("a"), {"role": "assistant", "content": "b", "weight": 2}]},
            {"prompt": "a", "completion": ""},
        ],
    )
    with path.open("a") as file:
        file.write("{oops\n\n[1]\n")
    with pytest.raises(DataError) as caught:
        read_samples(path, chat)
    lines = str(caught.value).splitlines()[1:]
    expected = {
        2: "no assistant message to learn",
        3: 'needs "messages": [...], or "prompt" and "completion"',
        4: "messages[0].role = 'robot'",
        5: "messages[1].weight = 2: it must be a number from 0 to 1",
        6: '"completion" is empty',
        7: "not valid JSON",
        9: "a JSON list, not an object",
    }
    assert len(lines) == len(expected)
    for line, (number, fault) in zip(lines, expected.items(), strict=True):
        assert line.strip().startswith(f"line {number}: ")
        assert fault in line
