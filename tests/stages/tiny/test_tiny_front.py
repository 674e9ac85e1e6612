"""What the gateway sees of tiny: words in, prompts out, words back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.front import Turn, UnknownWord
from stages.tiny.data import draw_samples, heldout_digits
from stages.tiny.front import TinyFront
from stages.tiny.vocab import BOS, EOS, IMG, VOCABULARY, WORDS, split_words, word_ids
from stages.types import MediaSpan, Modality

FRONT = TinyFront()


def user(text, *media):
    return Turn(role="user", text=text, media=media)


def words_of(prompt):
    return [VOCABULARY[i] for i in prompt.token_ids if i > IMG]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("what digit is shown ?", ["what", "digit", "is", "shown", "?"]),
        ("What DIGIT is shown?", ["what", "digit", "is", "shown", "?"]),
        ("  describe\n the\timage.", ["describe", "the", "image", "."]),
        ("one, two", ["one", ",", "two"]),
        ("", []),
    ],
)
def test_text_is_lower_cased_and_punctuation_splits(text, words):
    assert split_words(text) == words
    assert words_of(FRONT.prompt([user(text)], [], [])) == words


def test_the_vocabulary_has_37_words():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 37
    assert len(WORDS) == 33


def test_a_prompt_is_media_then_question_then_bos():
    prompt = FRONT.prompt([user("describe the image .", 0)], ["aa"], [9])
    assert prompt.token_ids == (*[IMG] * 9, *word_ids(["describe", "the", "image", "."]), BOS)
    assert prompt.media == (MediaSpan(offset=0, length=9, content_hash="aa"),)


def test_media_of_every_turn_come_first_in_the_order_of_the_conversation():
    turns = [user("how many ?", 0, 2), Turn(role="assistant", text="three ."), user("what color ?", 1)]
    prompt = FRONT.prompt(turns, ["a", "b", "c"], [9, 18, 9])
    assert [(s.content_hash, s.offset, s.length) for s in prompt.media] == [
        ("a", 0, 9),
        ("c", 9, 9),
        ("b", 18, 18),
    ]
    assert prompt.token_ids[:36] == (IMG,) * 36
    assert words_of(prompt) == ["what", "color", "?"]


def test_only_the_last_user_turn_is_read():
    """Words of other turns need not be in the vocabulary."""
    turns = [
        Turn(role="system", text="You are a helpful assistant."),
        user("Hello there"),
        Turn(role="assistant", text="Greetings!"),
        user("what digit is shown ?"),
    ]
    assert words_of(FRONT.prompt(turns, [], [])) == ["what", "digit", "is", "shown", "?"]


def test_a_system_message_may_be_as_long_as_the_context():
    question = user("what digit is shown ?")
    fits = Turn(role="system", text="word " * FRONT.max_context)
    beyond = Turn(role="system", text="word " * (FRONT.max_context + 1))
    assert FRONT.prompt([fits, question], [], []) == FRONT.prompt([question], [], [])
    with pytest.raises(ValueError, match="1025 words; the context holds 1024"):
        FRONT.prompt([beyond, question], [], [])


def test_unknown_words_are_named_once_each_with_the_command_that_lists_the_known_ones():
    with pytest.raises(UnknownWord, match="tercet models vocab tiny") as caught:
        FRONT.prompt([user("what color is the Hexagon or the hexagon ?")], [], [])
    assert caught.value.words == ("hexagon", "or")


@pytest.mark.parametrize("special", ["<bos>", "<img>", "<pad>", "<eos>"])
def test_special_tokens_cannot_be_written_by_a_client(special):
    with pytest.raises(UnknownWord):
        FRONT.prompt([user(f"what digit is shown {special}")], [], [])


def test_a_message_about_unknown_words_stays_short():
    """However much text the client sent."""
    text = " ".join(f"{'x' * 1000}{i}" for i in range(50)) + " " + " ".join(f"w{i}" for i in range(5000))
    with pytest.raises(UnknownWord) as caught:
        FRONT.prompt([user(text)], [], [])
    assert len(str(caught.value)) < 500


@given(st.text())
def test_any_text_gives_a_prompt_or_unknown_words(text):
    try:
        prompt = FRONT.prompt([user(text)], [], [])
    except UnknownWord as error:
        assert error.words
    else:
        assert prompt.token_ids[-1] == BOS


@pytest.mark.parametrize(("frames", "tokens"), [(1, 9), (4, 36)])
def test_a_frame_of_any_size_is_nine_tokens(frames, tokens):
    assert FRONT.media_tokens(Modality.IMAGE, 1, 4000, frames) == tokens


def test_detokenize_gives_the_training_targets_back():
    for sample in draw_samples(40, 1, heldout_digits()):
        assert FRONT.detokenize([*word_ids(split_words(sample.answer)), EOS]) == sample.answer


@given(st.lists(st.integers(0, len(VOCABULARY) - 1)), st.data())
def test_text_only_grows(tokens, data):
    kept = data.draw(st.integers(0, len(tokens)))
    assert FRONT.detokenize(tokens).startswith(FRONT.detokenize(tokens[:kept]))


def test_special_tokens_have_no_text():
    assert FRONT.detokenize([BOS, *word_ids(["two", "."]), EOS]) == "two ."
    assert not re.search("<", FRONT.detokenize(range(len(VOCABULARY))))
