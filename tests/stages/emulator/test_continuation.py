from hypothesis import given
from hypothesis import strategies as st

from stages.emulator.continuation import Continuation, absorb, digest_of
from stages.emulator.vocabulary import IM_END, VOCABULARY_SIZE, detokenize, token_bytes

tokens = st.lists(st.integers(0, VOCABULARY_SIZE - 1), max_size=40)


def said(prompt, count, eos_every=0, **digest):
    digest = {"media": (), "temperature": 0.0, "seed": None} | digest
    speaker = Continuation(digest_of(prompt, **digest), prompt[-3:], eos_every)
    return [speaker.next() for _ in range(count)]


@given(tokens, tokens)
def test_a_digest_can_be_continued(first, second):
    start = digest_of(first, (), 0.0, None)
    assert absorb(start, second) == digest_of(first + second, (), 0.0, None)


@given(tokens, st.integers(0, 30))
def test_a_prompt_with_its_first_words_goes_on_with_the_next(prompt, known):
    """Also from within a character: which is why a decode can be resumed at any token."""
    whole = said(prompt, 40)
    assert said(prompt + whole[:known], 40 - known) == whole[known:]


@given(st.lists(st.integers(272, VOCABULARY_SIZE - 1), min_size=1, max_size=5))
def test_what_is_said_is_text(prompt):
    data = b"".join(map(token_bytes, said(prompt, 200)))
    whole = data.decode("utf-8", "ignore")
    assert len(data) - len(whole.encode()) < 4  # only the last character may be cut


def test_now_and_then_a_character_takes_several_tokens():
    ids = said([300], 400)
    assert any(token >= 0xC0 and token < 256 for token in ids)
    assert any(not character.isascii() for character in detokenize(ids))


def test_all_that_a_model_reads_changes_what_it_says():
    answers = [
        said([300, 301], 12),
        said([301, 300], 12),
        said([300, 301], 12, media=("a",)),
        said([300, 301], 12, media=("b",)),
        said([300, 301], 12, media=("a", "b")),
        said([300, 301], 12, temperature=1.0),
        said([300, 301], 12, temperature=1.0, seed=7),
    ]
    assert len({tuple(answer) for answer in answers}) == len(answers)


def test_without_temperature_the_seed_does_not_matter():
    assert said([300], 12, seed=1) == said([300], 12, seed=2)


def test_answers_end_as_often_as_told():
    speaker = Continuation(digest_of([300], (), 0.0, None), [300], 20)
    ends = sum(speaker.next() == IM_END for _ in range(20_000))
    assert 800 < ends < 1200
