"""Text is shown once it is certain, and ends before a stop string however the tokens arrive."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.stop import StopText
from stages.tiny.vocab import join_words

PIECES = ("a", "b", "ab", "ba", " ", "", "é", "aa", "b a")


def words(tokens):
    return "".join(PIECES[t] for t in tokens)


def byte_text(tokens):
    """A byte-level tokenizer: the end of an incomplete character reads as U+FFFD."""
    return bytes(tokens).decode("utf-8", errors="replace")


def shown(detokenize, stop, chunks):
    text = StopText(detokenize, stop)
    pieces = [text.push(chunk) for chunk in chunks]
    return "".join([*pieces, text.finish()]), pieces, text.stopped


def token_by_token(detokenize, stop, tokens):
    """The definition: stop at the first token with which a stop string is in the text."""
    for count in range(1, len(tokens) + 1):
        text = detokenize(tokens[:count])
        starts = [text.find(s) for s in stop if s in text]
        if starts:
            return text[: min(starts)], True
    return detokenize(tokens), False


@given(
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=120),
    stop=st.lists(st.sampled_from(["aba", "bb", "a b", "é", "aab", "b"]), max_size=3),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_any_chunks_give_the_text_of_the_definition(tokens, stop, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=5)))
    chunks = [tokens[a:b] for a, b in itertools.pairwise([0, *cuts, len(tokens)])]
    text, pieces, stopped = shown(words, stop, chunks)
    assert (text, stopped) == token_by_token(words, stop, tokens)
    assert text.startswith("".join(pieces))


@given(text=st.text(max_size=150))
def test_characters_of_several_tokens_come_whole(text):
    tokens = list(text.encode())
    result, pieces, _ = shown(byte_text, (), [[t] for t in tokens])
    assert result == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.lists(st.integers(0, 36), max_size=200))
def test_words_of_tiny_keep_their_spaces(tokens):
    """Special tokens have no text, wherever the window of detokenized tokens begins."""
    assert shown(join_words, (), [[t] for t in tokens])[0] == join_words(tokens)


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        pytest.param([0, 1, 0], ["", "", ""], id="stop-string-complete"),
        pytest.param([0, 1, 1], ["", "", "abb"], id="turned-out-otherwise"),
        pytest.param([1, 0], ["b", ""], id="held-at-the-end"),
    ],
)
def test_what_may_become_a_stop_string_is_held_back(tokens, pieces):
    assert shown(words, ("aba",), [[t] for t in tokens])[1] == pieces


def test_nothing_follows_a_stop_string():
    text = StopText(words, ("bb",))
    assert text.push([0, 1, 1, 0]) == "a"
    assert text.stopped
    assert text.push([0]) == ""
    assert text.finish() == ""


def test_an_incomplete_character_is_shown_at_the_end():
    text = StopText(byte_text)
    assert text.push([0xC3]) == ""
    assert text.finish() == "\ufffd"


def test_a_token_costs_the_same_late_as_early():
    lengths = []

    def detokenize(tokens):
        lengths.append(len(tokens))
        return words(tokens)

    StopText(detokenize, ("zz",)).push([0, 1] * 2000)
    assert max(lengths) < 100
