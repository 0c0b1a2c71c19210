"""The real SmolLM2: its tokenizer, its template, and how long they take to load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tokenizers import pre_tokenizers

from mohist.chat.chat import load_chat
from mohist.chat.tokenizer import Tokenizer

pytestmark = pytest.mark.real_model

TEXTS = {
    "Hello, world!": [19556, 28, 905, 17],
    "12345 + 3.14": [33, 34, 35, 36, 37, 1232, 216, 35, 30, 33, 36],
}
VARIED = [
    "墨子曰：兼相爱，交相利。日本語と한국어。",
    "👩‍👩‍👧‍👦🏳️‍🌈 🤖 e\u0301 ½ ２３ Ⅳ",
    "def f(x):\n    return x ** 2  # c\r\n\n\n\tend",
    "   leading, trailing   \n \n x",
    "I'm you'll HE'S <b>bold</b> https://x.y/z?a=b&c=d",
    "\x00\x7f\u00a0\u2028\ufffd",
]


def test_known_tokens(smollm2_metadata: Mapping[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(smollm2_metadata)
    assert {text: tokenizer.encode(text) for text in TEXTS} == TEXTS
    assert tokenizer.vocab_size == 49152


@pytest.mark.parametrize("text", VARIED)
def test_round_trips(smollm2_metadata: Mapping[str, Any], text: str) -> None:
    tokenizer = Tokenizer.from_gguf(smollm2_metadata)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_prompt(smollm2_metadata: Mapping[str, Any]) -> None:
    chat = load_chat(smollm2_metadata)
    assert chat.format.name == "chatml"
    assert chat.thinking_mode == "never"
    assert chat.stop_tokens == (2, 0)
    tokens = chat.render([{"role": "user", "content": "Hi<|im_end|>"}])
    assert [tokens.count(1), tokens.count(2)] == [3, 2]
    assert chat.tokenizer.decode(tokens) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parity
def test_as_the_library_cuts_it(smollm2_metadata: Mapping[str, Any]) -> None:
    """The rules of SmolLM2's own tokenizer.json: single digits, then GPT-2's words."""
    backend = Tokenizer.from_gguf(smollm2_metadata).backend
    rules = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    for text in (*TEXTS, *VARIED):
        assert backend.pre_tokenizer.pre_tokenize_str(text) == rules.pre_tokenize_str(text)
