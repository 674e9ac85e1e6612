import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.emulator.vocabulary import (
    IM_END,
    VOCABULARY_SIZE,
    TextStream,
    detokenize,
    token_bytes,
    tokenize,
)


@given(st.text())
def test_a_text_comes_back(text):
    assert detokenize(tokenize(text)) == text


@given(st.integers(272, VOCABULARY_SIZE - 1))
def test_every_word_is_one_token(token):
    """The ids of words are exactly those of the texts that they stand for."""
    assert tokenize(token_bytes(token).decode()) == [token]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("hello there", 4), ("Hi", 2), ("a  b", 3), ("é", 2), ("", 0)],
)
def test_tokens_are_short_words_and_bytes(text, tokens):
    assert len(tokenize(text)) == tokens


def test_special_tokens_are_no_text():
    assert tokenize("<|im_end|>") != [IM_END]
    assert detokenize([IM_END]) == "<|im_end|>"


@given(st.text(), st.data())
def test_a_stream_says_the_same_text_and_never_half_a_character(text, data):
    tokens, stream, said = tokenize(text), TextStream(), ""
    while tokens:
        count = data.draw(st.integers(1, len(tokens)))
        piece = stream.push(tokens[:count])
        assert "\ufffd" not in piece or "\ufffd" in text
        said, tokens = said + piece, tokens[count:]
    assert said == text


def test_half_a_character_at_the_end_is_not_said():
    stream = TextStream()
    assert stream.push(tokenize("né")[:2]) == "n"
    assert stream.finish() == ""
