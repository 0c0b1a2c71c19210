from pathlib import Path

import pytest

from mohist.chat.chat import load_chat
from mohist.chat.turns import last_turn
from mohist.errors import ModelError
from mohist.kernels import load_ops
from mohist.model.count import mtp_parameters, parameters
from mohist.model.family import read_config
from mohist.model.load import init_decoder
from mohist.recipes.start import ShapeConfig, decoder_config, word_tokenizer, write_start
from mohist.types import Message
from mohist.weights.checkpoint import open_config

WORDS = ["3", "16", "make", "+", "*", "→", "(", ")", "no", "yes"]
TALK = (
    Message(role="user", content="3 3 make 16"),
    Message(role="assistant", reasoning="3 * 3 → 16 no", content="( 3 + 3 ) * 3"),
)


def test_every_word_is_a_token_and_comes_back_with_a_space() -> None:
    tokenizer = word_tokenizer(WORDS)
    assert tokenizer.decode(tokenizer.encode("3*3 →16  no(")) == " 3 * 3 → 16 no ("
    assert len(tokenizer.encode("3*3 →16  no(")) == 7
    assert tokenizer.vocab_size == 7 + len(WORDS)


def test_an_unknown_word_is_unknown() -> None:
    tokenizer = word_tokenizer(WORDS)
    assert tokenizer.encode("17 cats") == [tokenizer.token("<unk>")] * 2


def test_a_repeated_word_is_one_token() -> None:
    assert word_tokenizer(["3", "3"]).vocab_size == word_tokenizer(["3"]).vocab_size


def test_the_folder_starts_a_model_that_thinks(tmp_path: Path) -> None:
    write_start(ShapeConfig(), WORDS, tmp_path)
    config = read_config(open_config(tmp_path))
    assert config == decoder_config(ShapeConfig(), 7 + len(WORDS))
    chat = load_chat(tmp_path)
    assert chat.thinking_mode == "always"
    turn = last_turn(chat, TALK)
    assert turn.prompt == chat.render(TALK[:1])
    assert chat.parse(turn.answer, turn.prompt).reasoning == " 3 * 3 → 16 no"
    assert chat.parse(turn.answer, turn.prompt).content == " ( 3 + 3 ) * 3"
    assert turn.answer[-1] in config.eos_tokens


def test_each_question_stands_alone(tmp_path: Path) -> None:
    write_start(ShapeConfig(), WORDS, tmp_path)
    chat = load_chat(tmp_path)
    assert chat.render([*TALK, TALK[0]]) == chat.render(TALK[:1])
    assert last_turn(chat, [*TALK, *TALK]) == last_turn(chat, TALK)


def test_the_default_shape_has_between_one_and_three_million_parameters() -> None:
    config = decoder_config(ShapeConfig(), 80)
    total = sum(p.numel() for p in init_decoder(config, load_ops(threads=1), seed=0).parameters())
    assert total == parameters(config) + mtp_parameters(config)
    assert 1e6 < total < 3e6


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="top_k"):
        write_start(ShapeConfig(top_k=17), WORDS, tmp_path)
